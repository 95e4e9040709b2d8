"""Whether to believe an estimate, in words."""

import math
from collections.abc import Iterator

from torch import Tensor

from llc.diagnostics.result import Estimate
from llc.trace import Trace

RELATIVE_TOLERANCE = 0.03
STANDARD_ERRORS = 4.0
MAX_RHAT = 1.05
MIN_ESS = 100.0
MAX_SHARE_BELOW = 0.2
MAX_ENERGY_ERROR = 2.0  # of a chain, over what its step is tuned to
MIN_MOVES = 0.01  # of the kept draws: a chain that moves less often stands still

ACCEPTING = "take a sampler with an accept step (mamclmc, hmc)"


def judge(estimate: Estimate, epsilon: float) -> str:
    """The status in words: `ok`, or the first thing that is wrong and what to do about it."""
    if estimate.num_diverged_chains:
        steps = estimate.trace.diverged_at
        first, chains = int(steps[steps >= 0].min()), len(steps)
        remedy = f"epsilon={epsilon:g} is too large for the curvature here, try {epsilon / 10:g}"
        if math.isnan(epsilon):
            remedy = "at the step that it found itself: raise gamma, or give it a longer warm-up"
        if estimate.trace.step_size.numel() and estimate.trace.step_size.isnan().all():
            remedy = "rounding is as large as the loss: raise gamma"  # Gibbs, which has no step
        return (
            f"diverged at step {first}: {estimate.num_diverged_chains} of {chains} chains; {remedy}"
        )
    if estimate.mean + 2 * estimate.standard_error < 0 or estimate.share_below > MAX_SHARE_BELOW:
        return (
            f"below the centre: w* is not a minimum ({estimate.share_below:.0%} of the trace "
            "has a lower loss): train longer or raise gamma"
        )
    complaints = [
        *_stuck(estimate),
        *_complaints(estimate, epsilon),
        *_inaccurate(estimate, epsilon),
    ]
    return "not converged: " + "; ".join(complaints) if complaints else "ok"


def _stuck(estimate: Estimate) -> Iterator[str]:
    still = standing_still(estimate.trace, estimate.num_burn_in)
    if still:
        yield (
            f"{len(still)} of {len(estimate.per_chain)} chains stand still ({_chains(still)}): "
            "take smaller steps, or a longer warm-up to find them"
        )


def _chains(numbers: list[int]) -> str:
    return "chain " + ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")


def energy_errors(trace: Trace, num_burn_in: int) -> list[float]:
    """The mean energy error of each chain's kept draws, over what its step is tuned to."""
    if trace.energy_error is None:
        return []
    return trace.energy_error[:, _kept(trace, num_burn_in)].nanmean(1).tolist()


def standing_still(trace: Trace, num_burn_in: int) -> list[int]:
    """The chains whose kept draws all but never change, counted from 0.

    Not those whose moves are accepted all the same: their loss is flat.
    """
    draws = (trace.loss - trace.baseline)[:, num_burn_in:]
    changes = (draws.diff(dim=1) != 0).double()
    same = changes.sum(1) < MIN_MOVES * changes.shape[1]
    acceptance = trace.acceptance[:, _kept(trace, num_burn_in)]
    accepts = acceptance.double().mean(1) >= MIN_MOVES  # NaN compares false
    return [int(chain) for chain in (same & ~accepts).nonzero().flatten()]


def _kept(trace: Trace, num_burn_in: int) -> Tensor:
    """Which looks are at kept draws."""
    return trace.checked_steps >= trace.steps[min(num_burn_in, len(trace.steps) - 1)]


def _complaints(estimate: Estimate, epsilon: float) -> Iterator[str]:
    tolerance = error_bound(estimate)
    if not estimate.ess >= MIN_ESS:
        yield f"ESS {estimate.ess:.1f} < {MIN_ESS:.0f}: sample longer or more chains"
    if not estimate.rhat <= MAX_RHAT:
        yield f"R-hat {estimate.rhat:.3f} > {MAX_RHAT}: sample longer"
    if not abs(estimate.drift) <= tolerance / 2:
        yield f"λ̂ drifts by {estimate.drift:+.2g} over the second half: sample longer"
    # The companions may sit in steeper places, where the same step biases more. What samplers that
    # find their own step know of its bias is too noisy in companions, whose runs are short.
    bias = estimate.cooled_bias - estimate.step_size_bias
    unknown = math.isnan(bias) or math.isnan(epsilon)
    gap = estimate.cooled_mean - estimate.mean - (0.0 if unknown else bias)
    if estimate.companions and math.isnan(estimate.cooled_mean):
        remedy = "raise gamma" if math.isnan(epsilon) else f"try epsilon={epsilon / 3:.1g}"
        yield f"companion chains diverged: {remedy}"
    elif estimate.companions and not abs(gap) <= tolerance:
        yield f"chains cooled from above read {estimate.cooled_mean:.4g}: sample longer"


def _inaccurate(estimate: Estimate, epsilon: float) -> Iterator[str]:
    """What the step size does to λ̂; where the energy is not kept, no first order tells the bias."""
    errors = energy_errors(estimate.trace, estimate.num_burn_in)
    bad = [chain for chain, error in enumerate(errors) if error > MAX_ENERGY_ERROR]
    if bad:
        worst = max(errors[chain] for chain in bad)
        yield (
            f"energy error of {len(bad)} of {len(errors)} chains ({_chains(bad)}) above "
            f"{MAX_ENERGY_ERROR:g} times the one wanted, up to {worst:.2g}: their step is "
            f"too large: give them a longer warm-up, or {ACCEPTING}"
        )
    elif abs(estimate.step_size_bias) > error_bound(estimate) / 2:
        remedy = ACCEPTING if math.isnan(epsilon) else f"try epsilon={epsilon / 3:.1g}"
        yield f"the step biases λ̂ by about {estimate.step_size_bias:+.2g}: {remedy}"


def error_bound(estimate: Estimate) -> float:
    """How far off the exact posterior expectation `ok` allows λ̂ to be: 3 %, or 4 SE if more."""
    return max(RELATIVE_TOLERANCE * abs(estimate.mean), STANDARD_ERRORS * estimate.standard_error)
