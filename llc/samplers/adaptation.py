"""What samplers learn while they warm up: a step size, and a scale for each direction.

Each chain adapts on its own, so that its result does not depend on its company.
"""

from math import log
from typing import NamedTuple

import torch
from torch import Tensor

SHRINKAGE, OFFSET, FORGETTING = 0.05, 10.0, 0.75  # γ, t₀ and κ of the paper, as in Stan


class StepSize(NamedTuple):
    """Dual averaging of log ε towards an acceptance probability; each field (C,), float64.

    With the shortfall H_t = δ − α_t of the acceptance below its target:
        H̄_t = (1 − 1/(t + t₀)) H̄_{t−1} + H_t/(t + t₀),   log ε_t = μ − (√t/γ) H̄_t,
        log ε̄_t = t^{−κ} log ε_t + (1 − t^{−κ}) log ε̄_{t−1},
    μ = log 10ε₀ (Hoffman & Gelman 2014, section 3.2). ε_t is used while adapting, ε̄ afterwards.
    """

    log_step: Tensor  # log ε_t
    log_mean: Tensor  # log ε̄_t
    shortfall: Tensor  # H̄_t
    anchor: Tensor  # μ
    updates: Tensor  # t

    @classmethod
    def start(cls, step_size: Tensor) -> "StepSize":
        """From the first guesses ε₀ (C,)."""
        log_step = step_size.double().log()
        zero = torch.zeros_like(log_step)
        return cls(log_step, log_step, zero, log_step + log(10), zero)

    def update(self, acceptance: Tensor, target: float) -> "StepSize":
        """After a transition with this acceptance probability (C,)."""
        count = self.updates + 1
        weight = 1 / (count + OFFSET)
        shortfall = (1 - weight) * self.shortfall + weight * (target - acceptance)
        log_step = self.anchor - count.sqrt() / SHRINKAGE * shortfall
        share = count**-FORGETTING
        log_mean = share * log_step + (1 - share) * self.log_mean
        return StepSize(log_step, log_mean, shortfall, self.anchor, count)

    def value(self, warm: bool) -> Tensor:
        """(C,) ε: the current try while adapting, their average once `warm`."""
        return (self.log_mean if warm else self.log_step).exp()
