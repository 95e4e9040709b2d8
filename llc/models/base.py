"""What a stack of networks offers to the samplers: minibatch losses and their gradients.

A loss is bound to its data and serves *blocks*: K minibatches for each of C chains, prepared in one
go (gathers and second moments of many batches cost little more than those of one), then consumed
step by step.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from llc.params import Params, Shapes, Stack, count

EVERY = slice(None)
CACHED = 2**21  # numbers in a table that caches hold

BLOCK_STEPS = 256  # a block's steps at most: enough for the work between blocks not to count …
BLOCK_PARAMETERS = 2**21  # … as long as its positions stay below this many numbers
BLOCK_DATA = 3 * 2**20  # … and its minibatches below this, so that caches hold them


class LossBlock(Protocol):
    """K minibatches of C chains; remembers the residuals at the points it was asked about."""

    def load(self, steps: int, indices: Tensor | None) -> None:
        """Prepare `steps` ≤ K batches: the examples `indices` (steps, C, B), or (steps, 1, B)
        shared by the chains, or all the data where None."""

    def add_gradient(self, step: int, weights: Params, out: Params, scale: float) -> None:
        """out ← out + scale·∇L_B(weights) on batch `step`; `out` must not alias `weights`."""

    def descend(
        self, path: Sequence[Stack], steps: range, keep: Sequence[float], scale: float
    ) -> None:
        """w_{t+1} ← w_{t+1} + Σₖ k·w_t + scale·∇L_B(w_t), k in `keep`, for each t of `steps` in
        turn; `path` holds every w_t, batch t is that of step t."""
        for step in steps:
            here, there = path[step], path[step + 1]
            for factor in keep:
                there.flat.add_(here.flat, alpha=factor)
            self.add_gradient(step, here.leaves, there.leaves, scale)

    def losses(self, steps: slice = EVERY) -> Tensor:
        """(steps, C) L_B at the points where `add_gradient` was last asked."""

    def baselines(self, steps: slice = EVERY) -> Tensor:
        """(steps, C) L_B(w*) on the same examples."""


class StackedLoss(Protocol):
    """L_B(w) = mean over the examples of B of a loss per example, for a stack of networks."""

    @property
    def shapes(self) -> Shapes:
        """Leaf shapes of one network."""

    @property
    def num_examples(self) -> int:
        """n."""

    def numbers_per_step(self, batch_size: int) -> int:
        """What one step of one chain holds in a block, in numbers; bounds the block's length."""

    def examples_per_step(self, batch_size: int) -> int:
        """How many examples a step's products run over: fewer than the batch where it is summed up
        before."""

    def reference(self, centres: Params) -> Tensor:
        """(S, …) what L_B(w*) is computed from later, for centres (S, *shape); zero iff every
        example's loss is zero there (then L_B(w*) costs nothing)."""

    def block(self, like: Params, reference: Tensor, steps: int) -> LossBlock:
        """Room for `steps` minibatches of stacks like `like` (C, *shape); `reference` has one
        entry a chain, or one for all."""

    def full_data(self, weights: Params) -> Tensor:
        """(C,) L_n(w) over all data, in the weights' precision, accumulated in float64."""

    def select(self, index: slice) -> "StackedLoss":
        """The same loss for a part of the chain axis (what differs along it is sliced)."""

    def repeat(self, times: int) -> "StackedLoss":
        """The same loss with every entry of the chain axis `times` times in a row."""


def block_steps(loss: StackedLoss, batch_size: int, chains: int) -> int:
    """K for a stack of `chains` chains."""
    by_size = BLOCK_PARAMETERS // (chains * count(loss.shapes))
    by_data = BLOCK_DATA // (chains * loss.numbers_per_step(batch_size))
    return max(1, min(BLOCK_STEPS, by_size, by_data))


def rows_of_each(table: Tensor, indices: Tensor) -> Tensor:
    """Rows `indices` (K, S, B) of `table` (T, n, f), stream by stream where T > 1: (K, ·, B, f)."""
    sets, examples, features = table.shape
    if sets > 1:
        offsets = torch.arange(sets, device=table.device, dtype=torch.int64).view(1, -1, 1)
        indices = indices + offsets * examples
    # Numbers by themselves are fetched faster than rows of one.
    shape = (sets * examples, features) if features > 1 else (-1,)
    rows = table.reshape(shape).index_select(0, indices.flatten())
    return rows.view(*indices.shape, features)
