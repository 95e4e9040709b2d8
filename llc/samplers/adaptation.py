"""What samplers learn while they warm up: a step size, and a scale for each direction.

Each chain adapts on its own, so that its result does not depend on its company.
"""

from collections.abc import Callable
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

Average = Callable[[Tensor], Tensor]  # over the parameters of each chain, at every one of them

SHRINKAGE, OFFSET, FORGETTING = 0.05, 10.0, 0.75  # γ, t₀ and κ of the paper, as in Stan
HALVINGS = 60  # of a first guess of the step size
PRIOR_DRAWS = 5  # that the geometric mean of the variances counts for, as in Stan
MEMORY, TRUST, RETREAT = 150, 1.5, 0.8  # steps, a factor in ε, and another, as in the MCLMC paper
FIRST, LAST, WINDOW = 75, 50, 25  # transitions: before, after, and in the first window, as in Stan


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


def first_step(
    log_ratio: Callable[[Tensor], Tensor], largest: Tensor, target: float
) -> tuple[Tensor, int]:
    """(C,) `largest`, halved until the acceptance of one step exceeds `target`; the tries it took.

    log_ratio: step sizes (C,) -> log of the acceptance ratio (C,); NaN counts as a refusal.
    """
    epsilons, used = largest, 0
    while used < HALVINGS:
        used += 1
        fine = log_ratio(epsilons).exp() > target  # NaN compares false
        if fine.all():
            break
        epsilons = torch.where(fine, epsilons, epsilons / 2)
    return epsilons, used


class Variance(NamedTuple):
    """The variance of a number along a chain, for many numbers at once (Welford 1962)."""

    mean: Tensor
    squares: Tensor  # Σ (x − mean)²
    draws: int

    @classmethod
    def start(cls, like: Tensor) -> "Variance":
        return cls(torch.zeros_like(like), torch.zeros_like(like), 0)

    def seen(self, values: Tensor) -> "Variance":
        """With one more draw, which is copied."""
        draws = self.draws + 1
        gap = values - self.mean
        mean = torch.add(self.mean, gap, alpha=1 / draws)
        squares = torch.addcmul(self.squares, gap, values - mean)
        return Variance(mean, squares, draws)

    def value(self) -> Tensor:
        """Unbiased; of two draws or more."""
        return self.squares / (self.draws - 1)


class EnergyError(NamedTuple):
    """Tunes ε to a mean squared energy error a step; each field (C,), float64.

    A step of size ε with the error ΔE tells that ε⁶/ξ, ξ = ΔE²/(d·target), is about right for the
    sixth power: E[ΔE²] ∝ ε⁶ (Robnik et al. 2023, section 4.1). The average of ξ/ε⁶ over the last
    150 steps or so, later over the last half of them, counts those most whose ξ is near one. After
    a step to where U is not finite ε stays below 0.8 of that step.

    Near the edge of stability the errors come in bursts, thousands of times their usual size: each
    throws ε back, and until the next it grows as the last is forgotten. What is kept in the end is
    the least ε since it began to settle, which outlives the bursts; any other may be too large.
    """

    step_size: Tensor  # ε
    weight: Tensor
    average: Tensor  # of ξ/ε⁶, times `weight`
    largest: Tensor  # that ε may become
    least: Tensor  # ε since it began to settle
    steps: int  # seen

    @classmethod
    def start(cls, step_size: Tensor) -> "EnergyError":
        zero = torch.zeros_like(step_size)
        return cls(step_size, zero, zero, torch.full_like(zero, torch.inf), step_size, 0)

    def seen(self, error: Tensor, scale: float, *, settling: bool) -> "EnergyError":
        """After a step with ΔE = `error` (C,); scale: d·target."""
        fine = error.isfinite()
        xi = torch.where(fine, error, 0).square() / scale + 1e-8
        weight = torch.where(fine, (-0.5 * (xi.log() / (6 * TRUST)).square()).exp(), 0)
        memory = max(MEMORY, self.steps)
        keep = (memory - 1) / (memory + 1)
        total = keep * self.weight + weight
        average = keep * self.average + weight * xi / self.step_size**6
        largest = torch.where(fine, self.largest, RETREAT * self.step_size)
        best = torch.where(total > 0, (average / total) ** (-1 / 6), self.step_size)
        step_size = torch.minimum(best, largest)
        least = torch.minimum(self.least, step_size) if settling else step_size
        return EnergyError(step_size, total, average, largest, least, self.steps + 1)

    def settled(self) -> "EnergyError":
        """With the ε to keep."""
        return self._replace(step_size=self.least)


class Mixing(NamedTuple):
    """How far a chain spreads, and how many of its draws are effective, from batches of them."""

    draws: Variance
    batches: Variance  # of the means of the batches
    batch: Tensor  # the sum of the one under way

    @classmethod
    def start(cls, like: Tensor) -> "Mixing":
        return cls(Variance.start(like), Variance.start(like), torch.zeros_like(like))

    def seen(self, values: Tensor, size: int) -> "Mixing":
        """With one more draw, in batches of `size`."""
        draws, batch = self.draws.seen(values), self.batch + values
        if draws.draws % size:
            return Mixing(draws, self.batches, batch)
        return Mixing(draws, self.batches.seen(batch / size), torch.zeros_like(batch))

    def spread(self) -> Tensor:
        """(C,) √(Σ variances) of rows (C, d)."""
        return self.draws.value().sum(1).sqrt()

    def steps_per_draw(self, size: int) -> Tensor:
        """(C,) draws for one effective draw, on average over the parameters."""
        return (size * self.batches.value() / self.draws.value()).mean(1)


class Metric(NamedTuple):
    """A diagonal M⁻¹, and the variances it is learnt from.

    M⁻¹ becomes the posterior's variances, each chain's own (Stan's windowed adaptation; Carpenter
    et al. 2017). Stan pulls them towards 1e-3, which presumes parameters of order one; variances
    here are as small as 1e-8. With n draws
        log M⁻¹ᵢ = (n/(n + 5)) log vᵢ + (5/(n + 5)) mean_j log v_j
    does the same without a scale of its own: other units of w change M⁻¹ by just their square.
    """

    inverse: Tensor
    variance: Variance

    @classmethod
    def start(cls, like: Tensor) -> "Metric":
        return cls(torch.ones_like(like), Variance.start(like))

    def seen(self, position: Tensor) -> "Metric":
        return self._replace(variance=self.variance.seen(position))

    def renewed(self, average: Average, unit: float = 1.0) -> "Metric":
        """`unit` times what the draws say, which are forgotten; a chain that stood still keeps its
        M⁻¹."""
        logs = self.variance.value().log()
        weight = PRIOR_DRAWS / (self.variance.draws + PRIOR_DRAWS)
        middle = average(logs)
        pulled = (logs + weight * (middle - logs)).exp() * unit
        inverse = torch.where(middle.isfinite(), pulled, self.inverse)
        return Metric(inverse, Variance.start(self.inverse))


class Windows(NamedTuple):
    """When to learn from the draws of a warm-up: in windows, each twice as long as the last."""

    first: int  # transition
    ends: tuple[int, ...]  # transitions before which what was learnt is put to use

    @classmethod
    def of(cls, warm_up: int) -> "Windows":
        """Stan's: 75 transitions to arrive, windows of 25, 50, …, 50 to settle the step size.

        Shorter warm-ups give 15 % to the arrival and 10 % to the settling; below 20 nothing is
        learnt. The last window takes in what is too short for another.
        """
        if warm_up < 20:
            return cls(0, ())
        first, last, window = FIRST, LAST, WINDOW
        if first + window + last > warm_up:
            first, last = int(0.15 * warm_up), int(0.1 * warm_up)
            window = warm_up - first - last
        ends, end, stop = [], first + window, warm_up - last
        while end + 2 * window <= stop:
            ends.append(end)
            window *= 2
            end += window
        return cls(first, (*ends, stop))

    def learning(self, step: int) -> bool:
        """Whether the end of transition `step` is a draw to learn from."""
        return bool(self.ends) and self.first <= step < self.ends[-1]
