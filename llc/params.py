"""Stacks of parameter sets: one dictionary of tensors, the chain on the leading axis.

A stack lives in one flat, leaf-major buffer: leaf ℓ occupies C·|ℓ| consecutive numbers, as a
contiguous (C, *shape) view. What touches every parameter (drift, noise, localisation) is then one
operation on the flat buffer, and a batched matrix product can write straight into a leaf.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
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

    def __init__(self, *leaves: Any) -> None:
        super().__init__(*leaves)
        self.derived: dict[Callable[[Params], Any], Any] = {}


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

    def packed(self, params: Params) -> Stack:
        """`params`, leaves (C, *shape), in one buffer: their own where they lie so, else a copy."""
        leaves = [params[name] for name in self.shapes]
        storage = leaves[0].untyped_storage().data_ptr()
        place = begin = leaves[0].storage_offset()
        for leaf in leaves:
            together = leaf.untyped_storage().data_ptr() == storage
            if not (together and leaf.is_contiguous() and leaf.storage_offset() == place):
                return self.pack(params)
            place += leaf.numel()
        return self.stack(leaves[0].as_strided((self.total,), (1,), begin))

    def sums(self, *factors: Tensor) -> Tensor:
        """(…, C) the sum over each set's numbers (…, total), in float64; of products of several."""
        lead = factors[0].shape[:-1]
        parts = zip(*(self.views(flat).values() for flat in factors), strict=True)
        rows = (reduce(torch.mul, leaves).reshape(*lead, self.chains, -1) for leaves in parts)
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

    def scatter(
        self,
        rows: Tensor,
        out: Tensor,
        shift: Tensor | None,
        scale: float,
        pull: float = 1.0,
        chains: slice = slice(None),
        first: int = 0,
    ) -> None:
        """out ← pull·shift + scale·rows, from chain-major rows (C, K, ≥ size) to out (K, total).

        shift: flat, of C sets, or of one that they share. rows: those of `chains`, from their
        number `first` on; the rest of `out` stays.
        """
        offset, last = 0, first + rows.shape[2]
        sets = 1 if shift is None else len(shift) // self.size
        # A single set lies in the buffer as in its row: one operation instead of one a leaf.
        spans = [("", 0, self.size)] if self.chains == 1 else self._spans()
        for _, start, length in spans:
            width = length // self.chains
            span = slice(max(first - offset, 0), min(last - offset, width))
            if span.start < span.stop:
                source = rows[:, :, offset + span.start - first : offset + span.stop - first]
                source = source.transpose(0, 1)
                target = out.narrow(1, start, length).view(-1, self.chains, width)[:, chains, span]
                if shift is None:
                    torch.mul(source, scale, out=target)
                else:
                    base = shift.narrow(0, sets * offset, sets * width).view(1, sets, width)
                    base = base[:, chains if sets > 1 else slice(None), span]
                    torch.add(base * pull, source, alpha=scale, out=target)
            offset += width


def derive(params: Params, make: Callable[[Params], Derived]) -> Derived:
    """`make(params)`, remembered with the leaves of a buffer."""
    if not isinstance(params, Leaves):
        return make(params)
    if make not in params.derived:
        params.derived[make] = make(params)
    return cast("Derived", params.derived[make])


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


def one_by_one(params: Params) -> list[Params]:
    """The sets of a stack as stacks of one each, views with room of their own."""
    chains = len(next(iter(params.values())))
    return [Leaves(select(params, slice(c, c + 1))) for c in range(chains)]


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
