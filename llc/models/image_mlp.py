"""A multilayer perceptron on flattened images, as a plain module."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from llc.streams import drawing_from


def image_mlp(
    widths: Sequence[int], generator: torch.Generator, classes: int = 10, inputs: int = 3072
) -> nn.Sequential:
    """Flatten, then Linear and ReLU for each of the hidden `widths`, then Linear to logits.

    PyTorch's own initialisation, by numbers that `generator` determines.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    with drawing_from(generator):
        for before, after in pairwise([inputs, *widths]):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear([inputs, *widths][-1], classes))
