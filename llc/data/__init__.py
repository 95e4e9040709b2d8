"""What networks are trained and evaluated on: teachers' inputs, and images."""

from llc.data.images import Images, load_images, noisy_labels
from llc.data.linear import Teacher, make_inputs, make_teacher

__all__ = ["Images", "Teacher", "load_images", "make_inputs", "make_teacher", "noisy_labels"]
