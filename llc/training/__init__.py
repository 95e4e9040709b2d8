"""Minibatch training that yields checkpoints and can be taken up where it was stopped."""

from llc.training.loop import Checkpoint
from llc.training.modules import train_classifier
from llc.training.stacked import train

__all__ = ["Checkpoint", "train", "train_classifier"]
