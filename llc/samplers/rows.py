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


class Path(NamedTuple):
    """K points of phase space of every chain, one after another."""

    whole: Tensor  # (3, K, C, d): positions, ∇U, velocities
    positions: list[Rows]
    slopes: list[Rows]


class RowData:
    """U and ∇U over all data, as `FullData` has them, at the rows of matrices (C, d)."""

    def __init__(self, posterior: LocalPosterior, steps: int = 1, *, apart: bool = False) -> None:
        self.full, self.layout = FullData(posterior, steps, apart=apart), posterior.layout
        self.nbeta, self.gamma = posterior.nbeta, posterior.gamma
        self.shape = posterior.chains, self.layout.size
        self.centre = self.matrix(self.full.centre)
        self.pull = -self.gamma * self.centre  # ∇U has γ(w − w*) = γw + this
        self.gap = self.centre.new_empty(steps, *self.shape)
        self.ones = torch.ones_like(self.centre)
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
        whole = self.centre.new_zeros(3, length, *self.shape)
        return Path(whole, *([self.rows(matrix) for matrix in part] for part in whole[:2]))

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
        self.gradient_of(weights, slope)

    def gradient_of(
        self, weights: Rows, slope: Rows, step: int = 0, going: Sequence[bool] | None = None
    ) -> int:
        """The same in step `step` (see `FullData`), of the chains `going` at least; returns of how
        many."""
        full = self.full
        if full.exact:
            torch.add(self.pull, weights.matrix, alpha=self.gamma, out=slope.matrix)
            return full.add_gradient(weights.leaves, slope.leaves, step, going)
        self.point.matrix.copy_(weights.matrix)
        self.slope.matrix.zero_()
        count = full.add_gradient(self.point.leaves, self.slope.leaves, step, going)
        torch.add(self.slope.matrix, weights.matrix, alpha=self.gamma, out=slope.matrix)
        slope.matrix.add_(self.pull)
        return count

    def energies(self, weights: Rows) -> tuple[Tensor, Tensor]:
        """(C,) L_n and U where `gradient` was last asked."""
        loss, potential = self.energies_at([weights], weights.matrix.unsqueeze(0))
        return loss[0], potential[0]

    def energies_at(self, points: Sequence[Rows], whole: Tensor) -> tuple[Tensor, Tensor]:
        """(K, C) L_n and U at K points, `whole` (K, C, d), where `gradient_of` was asked in the
        steps 0 … K − 1."""
        loss = self.full.losses([weights.leaves for weights in points])
        gap = torch.sub(whole, self.centre, out=self.gap[: len(points)])
        pull = torch.linalg.vector_norm(gap, dim=-1).square_()
        return loss, torch.add(self.nbeta * loss, pull, alpha=self.gamma / 2)

    def evaluate(self, weights: Rows, slope: Rows) -> tuple[Tensor, Tensor]:
        """Both."""
        self.gradient(weights, slope)
        return self.energies(weights)
