"""All data again, for samplers whose every step looks at each chain by itself.

They hold a stack chain-major, as a matrix (C, d): a number of each chain then multiplies or masks
its row in one operation, and an inner product per chain is one too, however many leaves there are.
"""

from itertools import accumulate
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from llc.params import Leaves, Params, Stack
from llc.posterior import FullData, LocalPosterior


class Rows(NamedTuple):
    """A stack of parameter sets: a matrix, one set a row, and its views."""

    matrix: Tensor  # (C, d)
    leaves: Params  # name -> (C, *shape), views of `matrix`


class Phase(NamedTuple):
    """A point of phase space of every chain: (3, C, d) and its parts."""

    whole: Tensor
    position: Rows
    slope: Rows  # ∇U there
    velocity: Tensor


class RowData:
    """U and ∇U over all data, as `FullData` has them, at the rows of matrices (C, d)."""

    def __init__(self, posterior: LocalPosterior) -> None:
        self.full, self.layout = FullData(posterior), posterior.layout
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

    def phase(self) -> Phase:
        """Room for a point of phase space."""
        whole = self.centre.new_zeros(3, *self.shape)
        return Phase(whole, self.rows(whole[0]), self.rows(whole[1]), whole[2])

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
        gap = torch.sub(weights.matrix, self.centre, out=self.gap)
        if self.full.exact:
            torch.mul(gap, self.gamma, out=slope.matrix)
            self.full.block.add_gradient(0, weights.leaves, slope.leaves, self.nbeta)
            return
        self.point.matrix.copy_(weights.matrix)
        self.slope.matrix.zero_()
        self.full.block.add_gradient(0, self.point.leaves, self.slope.leaves, self.nbeta)
        torch.add(self.slope.matrix, gap, alpha=self.gamma, out=slope.matrix)

    def energies(self, weights: Rows) -> tuple[Tensor, Tensor]:
        """(C,) L_n and U where `gradient` was last asked."""
        full = self.full
        loss = (
            full.block.losses()[0] if full.exact else full.posterior.loss.full_data(weights.leaves)
        )
        pull = torch.linalg.vecdot(self.gap, self.gap)
        return loss, torch.add(self.nbeta * loss, pull, alpha=self.gamma / 2)

    def evaluate(self, weights: Rows, slope: Rows) -> tuple[Tensor, Tensor]:
        """Both."""
        self.gradient(weights, slope)
        return self.energies(weights)
