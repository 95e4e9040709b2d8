"""Affine layers z = W h + b of stacked networks on a batch each, forwards and backwards.

BLAS fills the rows of its results with vectors. Where layers are narrower than the batch is long,
numbers lie feature by feature, (C, d, B), so that rows are long: products are then several times
as fast as with example after example, (C, B, d), and no slower. Wide layers keep that order, which
is the one that oneDNN takes without copies (`llc.products`).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from llc.params import Params
from llc.products import is_large, products


class Layer(NamedTuple):
    """The leaves of one layer of C networks, in the views that products take."""

    weight: Tensor  # (C, o, i)
    turned: Tensor  # (C, i, o)
    bias: Tensor  # (C, o)
    row: Tensor  # (C, 1, o) the same
    column: Tensor  # (C, o, 1)


def layers_of(params: Params) -> list[Layer]:
    """Of leaves weight, bias, weight, …"""
    leaves = list(params.values())
    return [
        Layer(weight, weight.mT, bias, bias.unsqueeze(1), bias.unsqueeze(2))
        for weight, bias in zip(leaves[::2], leaves[1::2], strict=True)
    ]


class Affine(Protocol):
    """The layers of one network on batches of one size; h, z and δ = ∂L/∂z in its own order."""

    def shape(self, width: int) -> tuple[int, int]:
        """Of the values of a layer, one chain's."""

    def arrange(self, rows: Tensor) -> Tensor:
        """(…, B, d) -> the same numbers in this order."""

    def forward(self, index: int, layer: Layer, hidden: Tensor, out: Tensor) -> Tensor:
        """out ← W h + b, of layer `index`."""

    def accumulate(self, index: int, out: Layer, delta: Tensor, hidden: Tensor, s: float) -> None:
        """Weights ← weights + s Σ δ hᵀ and bias ← bias + s Σ δ, sums over the batch."""

    def backward(self, index: int, layer: Layer, delta: Tensor, out: Tensor) -> Tensor:
        """out ← Wᵀ δ."""


def affine(like: Tensor, size: int, widths: Sequence[int]) -> Affine:
    """For batches of `size` and layers of `widths`, the input first."""
    wide = any(is_large(like, size, a, b) for a, b in pairwise(widths))
    kind = ByExample if wide or size < max(widths) else ByFeature
    return kind(like, size, widths)


class ByExample:
    """(C, B, d)."""

    def __init__(self, like: Tensor, size: int, widths: Sequence[int]) -> None:
        self.size = size
        self.products = [products(like, size, a, b) for a, b in pairwise(widths)]
        self.ones = like.new_ones(1, 1, size)

    def shape(self, width: int) -> tuple[int, int]:
        return self.size, width

    def arrange(self, rows: Tensor) -> Tensor:
        return rows

    def forward(self, index: int, layer: Layer, hidden: Tensor, out: Tensor) -> Tensor:
        return self.products[index].add(layer.row, hidden, layer.turned, out)

    def accumulate(self, index: int, out: Layer, delta: Tensor, hidden: Tensor, s: float) -> None:
        self.products[index].accumulate(out.weight, delta.mT, hidden, s)
        out.row.baddbmm_(self.ones.expand(len(delta), -1, -1), delta, alpha=s)

    def backward(self, index: int, layer: Layer, delta: Tensor, out: Tensor) -> Tensor:
        return self.products[index].multiply(delta, layer.weight, out)


class ByFeature:
    """(C, d, B)."""

    def __init__(self, like: Tensor, size: int, widths: Sequence[int]) -> None:
        self.size = size

    def shape(self, width: int) -> tuple[int, int]:
        return width, self.size

    def arrange(self, rows: Tensor) -> Tensor:
        return rows.mT.contiguous()

    def forward(self, index: int, layer: Layer, hidden: Tensor, out: Tensor) -> Tensor:
        return torch.baddbmm(layer.column, layer.weight, hidden, out=out)

    def accumulate(self, index: int, out: Layer, delta: Tensor, hidden: Tensor, s: float) -> None:
        out.weight.baddbmm_(delta, hidden.mT, alpha=s)
        out.bias.add_(delta.sum(2), alpha=s)  # a product with a single column takes twice as long

    def backward(self, index: int, layer: Layer, delta: Tensor, out: Tensor) -> Tensor:
        if delta.shape[1] == 1:
            return torch.mul(layer.turned, delta, out=out)  # sooner than a product
        return torch.bmm(layer.turned, delta, out=out)
