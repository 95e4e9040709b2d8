"""When a trajectory turns back on itself: the generalised U-turn criterion on binary trees.

A stretch of a trajectory with velocities p at its leaves turns where, for ρ = Σ p,
    ρ·p_first ≤ 0   or   ρ·p_last ≤ 0
(Betancourt 2017, "A conceptual introduction to Hamiltonian Monte Carlo", appendix A.4.2). Joining
two stretches a and b is checked as a whole, and across the joint as Stan does: a with the first
leaf of b, and the last leaf of a with b. The criterion is the same read backwards. Velocities
(C, d) are in coordinates in which the mass is one.
"""

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
    def leaf(cls, velocity: Tensor) -> "Stretch":
        return cls(velocity, velocity, velocity)


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


def grow(trees: list[Stretch], leaf: int, velocity: Tensor) -> Tensor | None:
    """Add leaf number `leaf` to the complete subtrees on the stack `trees`, the largest below.

    As in a binary counter a subtree is joined with its like as soon as that is complete. Returns
    (C,) whether one of the new subtrees turns; None where none was completed.
    """
    tree, turning = Stretch.leaf(velocity), None
    while leaf & 1:
        tree, here = join(trees.pop(), tree)
        turning = here if turning is None else turning | here
        leaf >>= 1
    trees.append(tree)
    return turning
