"""Stacks of parameter sets: one dictionary of tensors, the chain on the leading axis.

A stack lives in one flat, leaf-major buffer: leaf ℓ occupies C·|ℓ| consecutive numbers, as a
contiguous (C, *shape) view. What touches every parameter (drift, noise, localisation) is then one
operation on the flat buffer, and a batched matrix product can write straight into a leaf.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

Derived = TypeVar("Derived")

Params = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


class Leaves(dict[str, Tensor]):
    """The leaves of one buffer, with room for what a loss derives from them once.

    Making a view costs as much as multiplying two small matrices, and a buffer is used again and
    again.
    """

    derived: Any = None


class Stack(NamedTuple):
    """A stack of parameter sets: the flat buffer and its views."""

    flat: Tensor  # (total,)
    leaves: Params  # name -> (C, *shape), views of `flat`


class Layout:
    """Where the leaves of C parameter sets lie in a flat buffer of `total` numbers."""

    def __init__(self, shapes: Shapes, chains: int) -> None:
        self.shapes = dict(shapes)
        self.chains = chains
        self.size = count(shapes)
        self.total = chains * self.size

    def _spans(self) -> Iterator[tuple[str, int, int]]:
        start = 0
        for name, shape in self.shapes.items():
            length = self.chains * prod(shape)
            yield name, start, length
            start += length

    def views(self, flat: Tensor) -> Params:
        """Views (…, C, *shape) of each leaf of a buffer (…, total)."""
        lead = flat.shape[:-1]
        return Leaves(
            (name, flat.narrow(-1, start, length).view(*lead, self.chains, *self.shapes[name]))
            for name, start, length in self._spans()
        )

    def stack(self, flat: Tensor) -> Stack:
        return Stack(flat, self.views(flat))

    def pack(self, params: Params) -> Stack:
        """A copy of `params`, leaves (C, *shape), in one buffer."""
        flat = torch.cat([params[name].reshape(-1) for name in self.shapes])
        return self.stack(flat)

    def sums(self, flat: Tensor) -> Tensor:
        """(…, C) the sum over each set's numbers (…, total), in float64."""
        lead = flat.shape[:-1]
        rows = [leaf.reshape(*lead, self.chains, -1) for leaf in self.views(flat).values()]
        return torch.stack([row.sum(-1, dtype=torch.float64) for row in rows]).sum(0)

    def coordinates(self, count: int) -> Tensor:
        """(C, P) where P of each set's numbers lie: `count` of them, evenly spread, or all."""
        leaves = self.views(torch.arange(self.total)).values()
        places = torch.cat([leaf.reshape(self.chains, -1) for leaf in leaves], dim=1)
        return places[:, torch.linspace(0, self.size - 1, min(count, self.size)).long()]

    def spread(self, values: Tensor, out: Tensor) -> Tensor:
        """out (total,) ← one of the values (C,) for each set, at every number of the set."""
        for leaf in self.views(out).values():
            leaf.copy_(values.view(-1, *[1] * (leaf.dim() - 1)).expand_as(leaf))
        return out

    def choose(self, which: Tensor, yes: Tensor, no: Tensor) -> Tensor:
        """yes (total,) in place: the sets where `which` (C,) is false become those of `no`."""
        for one, other in zip(self.views(yes).values(), self.views(no).values(), strict=True):
            mask = which.view(-1, *[1] * (one.dim() - 1))
            torch.where(mask, one, other, out=one)
        return yes

    def scatter(self, rows: Tensor, out: Tensor, shift: Tensor | None, scale: float) -> None:
        """out ← shift + scale·rows, from chain-major rows (C, K, ≥ size) to out (K, total)."""
        offset = 0
        for name, start, length in self._spans():
            width = prod(self.shapes[name])
            source = rows[:, :, offset : offset + width].transpose(0, 1)
            target = out.narrow(1, start, length).view(-1, self.chains, width)
            if shift is None:
                torch.mul(source, scale, out=target)
            else:
                base = shift.narrow(0, start, length).view(1, self.chains, width)
                torch.add(base, source, alpha=scale, out=target)
            offset += width


def derive(params: Params, make: Callable[[Params], Derived]) -> Derived:
    """`make(params)`, remembered with the leaves of a buffer; one `make` per buffer."""
    if not isinstance(params, Leaves):
        return make(params)
    if params.derived is None:
        params.derived = make(params)
    return cast("Derived", params.derived)


def count(shapes: Shapes) -> int:
    """Parameters of one set."""
    return sum(prod(shape) for shape in shapes.values())


def stack(sets: Sequence[Params]) -> Params:
    """Parameter sets -> leaves (len(sets), *shape)."""
    return {name: torch.stack([one[name] for one in sets]) for name in sets[0]}


def unstack(params: Params, index: int) -> Params:
    """The set at `index` on the leading axis."""
    return {name: leaf[index] for name, leaf in params.items()}


def select(params: Params, index: slice | Tensor) -> Params:
    """The part of a stack that `index` picks on the leading axis."""
    return {name: leaf[index] for name, leaf in params.items()}


def repeat(params: Params, times: int) -> Params:
    """Each set of a stack `times` times in a row: (S, …) -> (S·times, …)."""
    return {name: leaf.repeat_interleave(times, dim=0) for name, leaf in params.items()}


def to(params: Params, device: torch.device | str, dtype: torch.dtype) -> Params:
    """The same parameters elsewhere or in another precision."""
    return {name: leaf.to(device=device, dtype=dtype) for name, leaf in params.items()}


def squared_distance(params: Params, centre: Params) -> Tensor:
    """‖w − w*‖² of each set: leaves (…, C, *shape) and (C, *shape) -> (…, C)."""
    total: Tensor | None = None
    for name, base in centre.items():
        gap = params[name] - base
        own = list(range(gap.dim() - base.dim() + 1, gap.dim()))
        part = gap.square_().sum(own) if own else gap.square_()
        total = part if total is None else total + part
    assert total is not None
    return total
