"""Labelled images, whole, as tensors: scikit-learn's digits and CIFAR-10."""

from typing import NamedTuple

import torch
from torch import Tensor

from llc.config import ConfigError
from llc.vision import torchvision

SIZE = 32  # pixels a side
DIGITS_FOR_TRAINING = 1500  # of 1,797
CIFAR10_ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"


class Images(NamedTuple):
    """Images and what they show; on the CPU as they are loaded."""

    train_inputs: Tensor  # (n, 3, 32, 32) float32 in [0, 1]
    train_labels: Tensor  # (n,) int64
    test_inputs: Tensor
    test_labels: Tensor
    classes: int

    def to(self, device: torch.device, dtype: torch.dtype) -> "Images":
        """The same elsewhere, the pixels in another precision."""
        return Images(
            self.train_inputs.to(device, dtype),
            self.train_labels.to(device),
            self.test_inputs.to(device, dtype),
            self.test_labels.to(device),
            self.classes,
        )


def load_images(name: str, data_dir: str, download: bool) -> Images:
    """A data set by name, 32×32 pixels, three channels, ten classes.

    - `digits`: the 8×8 handwritten digits that come with scikit-learn, resized bilinearly and
      repeated over the channels. For every seed the same 1,500 for training and 297 for testing:
      a permutation by a generator of seed 0, cut there.
    - `cifar10`: 50,000 and 10,000, from `data_dir`/cifar-10-batches-py; with `download`, fetched to
      there where they are missing.

    Raises: ConfigError for another name, and where CIFAR-10 is not there, saying where to get it.
    """
    if name == "digits":
        return _digits()
    if name == "cifar10":
        return _cifar10(data_dir, download)
    raise ConfigError(f"model_data_config.data_name={name!r}: must be one of digits, cifar10")


def noisy_labels(labels: Tensor, share: float, classes: int, generator: torch.Generator) -> Tensor:
    """Labels (n,) of which round(share·n), chosen without replacement, are redrawn uniformly.

    A redrawn label may come out as it was.
    """
    count = round(share * len(labels))
    picks = torch.randperm(len(labels), generator=generator)[:count]
    fresh = torch.randint(classes, (count,), generator=generator)
    return labels.index_copy(0, picks, fresh)


def _digits() -> Images:
    from sklearn.datasets import load_digits  # late: it takes a second

    digits = load_digits()
    small = torch.from_numpy(digits.images).float().div_(16).unsqueeze(1)
    large = torch.nn.functional.interpolate(small, size=SIZE, mode="bilinear")
    order = torch.randperm(len(large), generator=torch.Generator().manual_seed(0))
    inputs = large[order].repeat(1, 3, 1, 1)
    labels = torch.from_numpy(digits.target).long()[order]
    train, test = slice(0, DIGITS_FOR_TRAINING), slice(DIGITS_FOR_TRAINING, None)
    return Images(inputs[train], labels[train], inputs[test], labels[test], classes=10)


def _cifar10(data_dir: str, download: bool) -> Images:
    cifar10, pairs = torchvision().datasets.CIFAR10, []
    for train in (True, False):
        try:
            part = cifar10(data_dir, train=train, download=download)
        except (OSError, RuntimeError) as error:
            found = (
                f"could not be downloaded ({error})" if download else "is not there, or not whole"
            )
            raise ConfigError(
                f"model_data_config.data_dir={data_dir!r}: CIFAR-10 {found}: get "
                f"{CIFAR10_ARCHIVE} and unpack it in that directory, which makes "
                "cifar-10-batches-py there, or name the directory that holds cifar-10-batches-py"
            ) from error
        pixels = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        pairs.append((pixels.float().div_(255), torch.tensor(part.targets)))
    train_pair, test_pair = pairs
    return Images(*train_pair, *test_pair, classes=10)
