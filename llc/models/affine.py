"""Gradients of stacked perceptrons on a batch each, through affine layers z = W h + b.

BLAS fills the rows of its results with vectors. Where layers are narrower than the batch is long,
numbers lie feature by feature, (C, d, B), so that rows are long: products are then several times
as fast as with example after example, (C, B, d), and no slower. Wide layers keep that order, which
is the one that oneDNN takes without copies (`llc.products`).
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from llc.models.activations import Activation
from llc.params import Params
from llc.products import is_large, products


class Layers(NamedTuple):
    """The leaves of C networks, layer by layer, in the views that products take."""

    weights: list[Tensor]  # (C, o, i)
    turned: list[Tensor]  # (C, i, o)
    biases: list[Tensor]  # (C, o)
    rows: list[Tensor]  # (C, 1, o) the same
    columns: list[Tensor]  # (C, o, 1)


def layers_of(params: Params) -> Layers:
    """Of leaves weight, bias, weight, …"""
    leaves = list(params.values())
    weights, biases = leaves[::2], leaves[1::2]
    turned = [weight.mT for weight in weights]
    rows, columns = ([bias.unsqueeze(axis) for bias in biases] for axis in (1, 2))
    return Layers(weights, turned, biases, rows, columns)


class Room(NamedTuple):
    """Buffers for the values of each layer, the input first."""

    before: list[Tensor]  # z; those of `hidden` where the activation works in place
    hidden: list[Tensor]  # h = φ(z)
    deltas: list[Tensor]  # ∂L/∂z

    @classmethod
    def of(cls, like: Tensor, shapes: Sequence[Sequence[int]], in_place: bool) -> "Room":
        """For values of such shapes."""
        hidden, deltas = ([like.new_empty(shape) for shape in shapes] for _ in range(2))
        return cls(hidden if in_place else [torch.empty_like(h) for h in hidden], hidden, deltas)


class Affine(Protocol):
    """The layers of one kind of network on batches of one size, in an order of its own."""

    def shape(self, width: int) -> tuple[int, int]:
        """Of the values of a layer, one chain's."""

    def arrange(self, rows: Tensor) -> Tensor:
        """(…, B, d) -> the same numbers in this order."""

    def add_gradient(
        self,
        layers: Layers,
        inputs: Tensor,
        targets: Tensor,
        room: Room,
        residual: Tensor,
        out: Layers,
        factor: float,
    ) -> None:
        """residual ← f(x) − y, out ← out + factor·½∇Σ residual², both sums over the batch."""


def affine(like: Tensor, size: int, widths: Sequence[int], activation: Activation) -> Affine:
    """For batches of `size` and layers of `widths`, the input first."""
    wide = any(is_large(like, size, a, b) for a, b in pairwise(widths))
    kind = ByExample if wide or size < max(widths) else ByFeature
    return kind(like, size, widths, activation)


class ByExample:
    """(C, B, d)."""

    def __init__(
        self, like: Tensor, size: int, widths: Sequence[int], activation: Activation
    ) -> None:
        self.size, self.activation = size, activation
        self.products = [products(like, size, a, b) for a, b in pairwise(widths)]
        self.ones = like.new_ones(1, 1, size)

    def shape(self, width: int) -> tuple[int, int]:
        return self.size, width

    def arrange(self, rows: Tensor) -> Tensor:
        return rows

    def add_gradient(
        self,
        layers: Layers,
        inputs: Tensor,
        targets: Tensor,
        room: Room,
        residual: Tensor,
        out: Layers,
        factor: float,
    ) -> None:
        hidden, last = [inputs], len(layers.weights) - 1
        for i, product in enumerate(self.products):
            to = residual if i == last else room.before[i + 1]
            product.add(layers.rows[i], hidden[i], layers.turned[i], to)
            if i < last:
                hidden.append(self.activation.forward(to, room.hidden[i + 1]))
        delta = residual.sub_(targets)
        ones = self.ones.expand(len(delta), -1, -1)
        for i in range(last, -1, -1):
            self.products[i].accumulate(out.weights[i], delta.mT, hidden[i], factor)
            out.rows[i].baddbmm_(ones, delta, alpha=factor)
            if i > 0:
                self.products[i].multiply(delta, layers.weights[i], room.deltas[i])
                delta = self.activation.backward(room.deltas[i], room.before[i])


class ByFeature:
    """(C, d, B), all layers in one call."""

    def __init__(
        self, like: Tensor, size: int, widths: Sequence[int], activation: Activation
    ) -> None:
        self.size, self.run = size, in_one_call(activation)

    def shape(self, width: int) -> tuple[int, int]:
        return width, self.size

    def arrange(self, rows: Tensor) -> Tensor:
        return rows.mT.contiguous()

    def add_gradient(
        self,
        layers: Layers,
        inputs: Tensor,
        targets: Tensor,
        room: Room,
        residual: Tensor,
        out: Layers,
        factor: float,
    ) -> None:
        ours, theirs = (layers.weights, layers.turned, layers.columns), (out.weights, out.biases)
        self.run(inputs, targets, *ours, *room, residual, *theirs, factor)


# Called from Python one by one, small operations cost more, and take and release the interpreter's
# lock each time: threads with a stack of chains each then wait for one another.
BY_FEATURE = """
def add_gradient(
    inputs: Tensor,
    targets: Tensor,
    weights: List[Tensor],
    turned: List[Tensor],
    columns: List[Tensor],
    before: List[Tensor],
    hidden: List[Tensor],
    deltas: List[Tensor],
    residual: Tensor,
    out_weights: List[Tensor],
    out_biases: List[Tensor],
    factor: float,
) -> None:
    values, last = [inputs], len(weights) - 1
    for i in range(last):
        torch.baddbmm(columns[i], weights[i], values[i], out=before[i + 1])
        values.append(forward(before[i + 1], hidden[i + 1]))
    torch.baddbmm(columns[last], weights[last], values[last], out=residual)
    delta = residual.sub_(targets)
    for j in range(last + 1):
        i = last - j
        out_weights[i].baddbmm_(delta, values[i].transpose(1, 2), alpha=factor)
        # A product with a single column takes twice as long as a sum.
        out_biases[i].add_(delta.sum(2), alpha=factor)
        if i > 0:
            if delta.size(1) == 1:  # sooner than a product
                torch.mul(turned[i], delta, out=deltas[i])
            else:
                torch.bmm(turned[i], delta, out=deltas[i])
            delta = backward(deltas[i], before[i])
"""


@cache
def in_one_call(activation: Activation) -> Callable[..., None]:
    """`ByFeature.add_gradient` as one function of TorchScript, which nobody holds the lock in."""
    return _compiled(activation.forward, activation.backward)


def _compiled(forward: Any, backward: Any) -> Callable[..., None]:
    """Its names are those that `BY_FEATURE` calls."""
    function: Callable[..., None] = torch.jit.CompilationUnit(BY_FEATURE).add_gradient
    return function
