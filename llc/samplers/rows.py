"""All data again, for samplers whose every step looks at each chain by itself.

They hold a stack chain-major, as a matrix (C, d): a number of each chain then multiplies or masks
its row in one operation, and an inner product per chain is one too, however many leaves there are.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from llc.params import Leaves, Params, Stack
from llc.posterior import LocalPosterior
from llc.samplers.full_data import FullData


class Rows(NamedTuple):
    """A stack of parameter sets: a matrix, one set a row, and its views."""

    matrix: Tensor  # (C, d)
    leaves: Params  # name -> (C, *shape), views of `matrix`


class Leaf(NamedTuple):
    """A point of phase space of every chain."""

    position: Rows
    slope: Rows  # ∇U there
    velocity: Tensor  # (C, d)
    gap: Tensor  # (C, d) w − w*


class Path(NamedTuple):
    """K points of phase space, one after another."""

    whole: Tensor  # (4, K, C, d): positions, ∇U, velocities, gaps
    leaves: list[Leaf]  # views of it


class RowData:
    """U and ∇U over all data, as `FullData` has them, at the rows of matrices (C, d)."""

    def __init__(self, posterior: LocalPosterior, steps: int = 1, *, apart: bool = False) -> None:
        self.full, self.layout = FullData(posterior, steps, apart=apart), posterior.layout
        self.nbeta, self.gamma = posterior.nbeta, posterior.gamma
        self.shape = posterior.chains, self.layout.size
        self.centre = self.matrix(self.full.centre)
        self.gap, self.ones = torch.empty_like(self.centre), torch.ones_like(self.centre)
        like = posterior.anchor.flat
        self.point, self.slope = (self.rows(like.new_empty(self.shape)) for _ in range(2))

    def rows(self, matrix: Tensor) -> Rows:
        """`matrix` with its views."""
        shapes = self.layout.shapes
        sizes = [prod(shape) for shape in shapes.values()]
        starts = accumulate(sizes, initial=0)
        views = (
            (name, matrix.narrow(1, start, size).view(-1, *shape))
            for (name, shape), start, size in zip(shapes.items(), starts, sizes, strict=False)
        )
        return Rows(matrix, Leaves(views))

    def path(self, length: int) -> Path:
        """Room for `length` points of phase space."""
        whole = self.centre.new_zeros(4, length, *self.shape)
        points = zip(*whole.unbind(), strict=True)
        return Path(whole, [Leaf(self.rows(q), self.rows(g), v, gap) for q, g, v, gap in points])

    def matrix(self, stack: Stack) -> Tensor:
        """(C, d) a copy of a stack, in float64."""
        return torch.cat(
            [leaf.reshape(len(leaf), -1) for leaf in stack.leaves.values()], 1
        ).double()

    def stack(self, matrix: Tensor) -> Stack:
        """A copy of a matrix (C, d) as a stack."""
        stack = self.layout.stack(torch.empty_like(self.full.centre.flat))
        self.copy(self.rows(matrix), stack)
        return stack

    def copy(self, rows: Rows, stack: Stack) -> None:
        """`stack` ← `rows`, in the precision of `stack`."""
        for one, other in zip(stack.leaves.values(), rows.leaves.values(), strict=True):
            one.copy_(other)

    def gradient(self, weights: Rows, slope: Rows) -> None:
        """slope ← ∇U at `weights`."""
        self._gradient(weights, slope, self.gap, 0, None)

    def gradient_on(self, path: Path, step: int, going: Sequence[bool] | None) -> None:
        """∇U at point `step` of a path, of the chains `going` at least, and its gap."""
        leaf = path.leaves[step]
        self._gradient(leaf.position, leaf.slope, leaf.gap, step, going)

    def _gradient(
        self, weights: Rows, slope: Rows, gap: Tensor, step: int, going: Sequence[bool] | None
    ) -> None:
        torch.sub(weights.matrix, self.centre, out=gap)
        if self.full.exact:
            torch.mul(gap, self.gamma, out=slope.matrix)
            self.full.add_gradient(weights.leaves, slope.leaves, step, going)
            return
        self.point.matrix.copy_(weights.matrix)
        self.slope.matrix.zero_()
        self.full.add_gradient(self.point.leaves, self.slope.leaves, step, going)
        torch.add(self.slope.matrix, gap, alpha=self.gamma, out=slope.matrix)

    def energies(self, weights: Rows) -> tuple[Tensor, Tensor]:
        """(C,) L_n and U where `gradient` was last asked."""
        loss = self.full.losses([weights.leaves])[0]
        pull = torch.linalg.vecdot(self.gap, self.gap)
        return loss, torch.add(self.nbeta * loss, pull, alpha=self.gamma / 2)

    def energies_on(self, path: Path, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """(K, C) L_n, U and ½‖u‖² at the first `length` points of a path, in whose order
        `gradient_on` was asked."""
        loss = self.full.losses([leaf.position.leaves for leaf in path.leaves[:length]])
        sizes = torch.linalg.vector_norm(path.whole[2:, :length], dim=-1)  # |u| and |w − w*|
        kinetic, pull = sizes.square_().mul_(0.5)
        return loss, torch.add(self.nbeta * loss, pull, alpha=self.gamma), kinetic

    def evaluate(self, weights: Rows, slope: Rows) -> tuple[Tensor, Tensor]:
        """Both."""
        self.gradient(weights, slope)
        return self.energies(weights)
