"""What the energy errors of a sampler without accept step do to λ̂, told by the errors themselves.

A step that changes the energy by ΔE makes the density f e^−U, which it finds, denser by e^ΔE where
it ends. To first order in ΔE the mean of any A therefore lies off that under e^−U by
    E[A] − E_π[A] = Σ_{k≥0} Cov(A_t, ΔE_{t−k}) = Cov(A_t, W_t),   W_t = ΔE_t + κ W_{t−1},
with κ → 1 (linear response). κ < 1 forgets what A has forgotten, lest the noise of W grow.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Means(NamedTuple):
    """Over the steps since the last look; each (C,)."""

    product: Tensor  # of the terms that add up to Cov(A, W)
    square: Tensor  # of ΔE²


class Response(NamedTuple):
    """Carried from block to block; each tensor (C,)."""

    work: Tensor  # W_t
    values: Tensor  # Σ A
    works: Tensor  # Σ W
    products: Tensor  # Σ (A − mean)(W − mean), of the steps since the last look
    squares: Tensor  # Σ ΔE², likewise
    fresh: int  # steps since the last look
    steps: int  # in all

    @classmethod
    def start(cls, like: Tensor) -> "Response":
        work, values, works, products, squares = like.new_zeros(5, *like.shape)
        return cls(work, values, works, products, squares, fresh=0, steps=0)

    def seen(
        self, values: Tensor, errors: Tensor, keep: Tensor, looks: list[int]
    ) -> tuple["Response", list[Means]]:
        """With K more steps; and what each of those numbered in `looks` shows.

        values, errors: (K, C) A after each step, and its ΔE; keep: (C,) κ.
        """
        works = decayed_sums(errors, self.work, keep)
        counts = torch.arange(1, len(values) + 1, device=values.device).unsqueeze(1) + self.steps
        value_sums, work_sums = self.values + values.cumsum(0), self.works + works.cumsum(0)
        # Welford's: A off its mean before the step, times W off its mean after it.
        centred = torch.where(counts > 1, values - (value_sums - values) / (counts - 1), 0)
        products, squares = centred * (works - work_sums / counts), errors.square()
        shown: list[Means] = []
        begin, fresh, left = 0, self.fresh, (self.products, self.squares)
        for end in [*(look + 1 for look in looks), len(values)]:
            part = slice(begin, end)
            left = left[0] + products[part].sum(0), left[1] + squares[part].sum(0)
            begin, fresh = end, fresh + end - begin
            if len(shown) < len(looks):
                shown.append(Means(left[0] / fresh, left[1] / fresh))
                left, fresh = (torch.zeros_like(left[0]), torch.zeros_like(left[1])), 0
        sums = (works[-1], value_sums[-1], work_sums[-1])
        return Response(*sums, *left, fresh, self.steps + len(values)), shown


def decayed_sums(values: Tensor, before: Tensor, keep: Tensor) -> Tensor:
    """(K, C) s_t = x_t + κ s_{t−1} of (K, C) x, with s_{−1} = `before`, in log₂ K passes."""
    sums = values.clone()
    sums[0] += keep * before
    reach = 1
    while reach < len(sums):
        sums[reach:] = sums[reach:] + keep**reach * sums[:-reach]
        reach *= 2
    return sums
