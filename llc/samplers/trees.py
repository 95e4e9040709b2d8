"""When a trajectory turns back on itself: the generalised U-turn criterion on binary trees.

A stretch of a trajectory with velocities p at its leaves turns where, for ρ = Σ p,
    ρ·p_first ≤ 0   or   ρ·p_last ≤ 0
(Betancourt 2017, "A conceptual introduction to Hamiltonian Monte Carlo", appendix A.4.2). Joining
two stretches a and b is checked as a whole, and across the joint as Stan does: a with the first
leaf of b, and the last leaf of a with b. The criterion is the same read backwards. Velocities
(C, d) are in coordinates in which the mass is one.

Of a few leaves in a row all subtrees are checked at once: each ρ·p is a sum of products p_i·p_j,
and these are the entries of one matrix.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import vecdot


class Stretch(NamedTuple):
    """The velocities of a stretch of leaves, each (C, d); a single leaf has one tensor for all."""

    first: Tensor
    last: Tensor
    total: Tensor

    @classmethod
    def of(cls, velocities: Tensor) -> "Stretch":
        """Of leaves (K, C, d), copied."""
        first = velocities[0].clone()
        if len(velocities) == 1:
            return cls(first, first, first)
        return cls(first, velocities[-1].clone(), velocities.sum(0))


def join(a: Stretch, b: Stretch) -> tuple[Stretch, Tensor]:
    """The stretch a followed by b, and (C,) whether it turns."""
    total = a.total + b.total
    dots = [vecdot(a.first, total), vecdot(b.last, total)]
    if a.first is not a.last or b.first is not b.last:
        across = a.total + b.first
        dots += [vecdot(a.first, across), vecdot(b.first, across)]
        across = b.total + a.last
        dots += [vecdot(a.last, across), vecdot(b.last, across)]
    return Stretch(a.first, b.last, total), torch.stack(dots).amin(0) <= 0


def grow(trees: list[Stretch], number: int, tree: Stretch) -> Tensor | None:
    """Add `tree`, `number` in a row of equally large ones, to the complete subtrees on the stack
    `trees`, the largest below.

    As in a binary counter a subtree is joined with its like as soon as that is complete. Returns
    (C,) whether one of the new subtrees turns; None where none was completed.
    """
    turning = None
    while number & 1:
        tree, here = join(trees.pop(), tree)
        turning = here if turning is None else turning | here
        number >>= 1
    trees.append(tree)
    return turning


def turns(velocities: Tensor) -> Tensor:
    """(K, C) whether a subtree turns that the leaf completes, among leaves (K, C, d) from the
    first of a subtree on, K a power of two."""
    count, chains, _ = velocities.shape
    rows = velocities.transpose(0, 1)
    # What is not finite must not hide the turns before it: it would, as 0·NaN.
    products = torch.bmm(rows, rows.mT).nan_to_num_(0.0).flatten(1)
    sums = products @ _criteria(count, products.device)
    return (sums.view(chains, count, -1).amin(2) <= 0).mT


@cache
def _criteria(count: int, device: torch.device) -> Tensor:
    """(K·K, K·M) which products p_i·p_j add up to each of the M ρ·p of the subtrees a leaf ends.

    Where there are fewer, the last is repeated; with none it is p·p of the leaf, which is positive.
    """
    each = [list(_stretches(leaf)) or [(leaf, leaf, leaf)] for leaf in range(count)]
    most = max(map(len, each))
    table = torch.zeros(count, count, count, most, dtype=torch.float64)
    for leaf, own in enumerate(each):
        for number in range(most):
            first, last, end = own[min(number, len(own) - 1)]
            table[first : last + 1, end, leaf, number] = 1
    return table.flatten(2).flatten(0, 1).to(device)


def _stretches(leaf: int) -> Iterator[tuple[int, int, int]]:
    """(first, last, one of the two) of every ρ·p to look at once `leaf` is there."""
    size = 2
    while (leaf + 1) % size == 0:
        first, middle = leaf + 1 - size, leaf - size // 2
        parts = [(first, leaf)]
        if size > 2:
            parts += [(first, middle + 1), (middle, leaf)]
        for start, stop in parts:
            yield from ((start, stop, start), (start, stop, stop))
        size *= 2
