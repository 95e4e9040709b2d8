"""Trace -> LLCEstimate: λ̂, its Monte-Carlo error, and whether to believe it.

    λ̂ = nβ · mean_t [L_{B_t}(w_t) − L_{B_t}(w*)]
over the draws after burn-in (Lau et al. 2023; both losses on the same examples, which removes the
minibatch noise they share and changes nothing on average).

`ok` claims that λ̂ is within max(3 %, 4 standard errors) of its exact posterior expectation. Chains
that share a start look alike long before they have equilibrated, so that R-hat and ESS alone cannot
support this. Beside them the status asks for
- no drift: the mean over the second half of the trace against the quarter before it;
- the same answer from the other side: companion chains that were heated to 16 times the temperature
  or more and cooled again approach equilibrium from above, chains from w* from below (the sandwich
  of Grosse et al. 2015, used as a convergence test), once each is freed of its own step-size bias;
- a small step: at stationarity E⟨w − w*, ∇U_B⟩ = d + (ε/4)·E‖∇U_B‖² (expand E‖w_{t+1} − w*‖²), so
  that on a quadratic potential with γ = 0 and a loss that vanishes at w*, λ̂ is too high by exactly
  (ε/8)·E‖∇U_B‖², discretisation and minibatch noise together; ‖∇U_B‖² is measured along the chain.
  With γ > 0 this overstates the bias; where targets are noisy the minibatch trace can have up to
  twice as much, so that `ok` allows it half the claimed error. A sampler that measures no such bias
  (the exact ones; NaN) is taken to have none;
- chains that move: a sampler that rejects everything repeats itself, and its chains may well agree.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc import mixing
from llc.trace import Trace

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # its announcement of version 1.0
    import arviz as az

Array = NDArray[np.float64]

RELATIVE_TOLERANCE = 0.03
STANDARD_ERRORS = 4.0
MAX_RHAT = 1.05
MIN_ESS = 100.0
MAX_SHARE_BELOW = 0.2
MIN_MOVES = 0.01  # of the kept draws: a chain that moves less often stands still


@dataclass(frozen=True)
class LLCEstimate:
    """λ̂ at one parameter, with everything needed to judge it; NaN where undefined."""

    mean: float  # over chains and draws after burn-in; NaN if any chain diverged
    standard_error: float  # Monte-Carlo, from chains and autocorrelation
    per_chain: tuple[float, ...]  # NaN for a diverged chain
    all_draws: float  # the same mean without burn-in
    num_burn_in: int  # draws left out per chain
    rhat: float  # rank-normalised split R-hat of the kept draws
    ess: float  # effective draws for the mean, over all chains
    drift: float  # second half of the trace minus the quarter before it
    drift_error: float  # its standard error
    companions: bool  # whether chains were also cooled from above
    cooled_mean: float  # λ̂ from them
    cooled_error: float
    cooled_bias: float  # their step-size bias
    companion_seconds: float  # what they took, all stages
    gradients: float  # full-data-equivalent: all chains, companions, and the search for ε
    step_size_bias: float  # (ε/8)·mean ‖∇U_B‖², in units of λ̂; NaN: none is measured
    share_below: float  # of 50 stretches of each chain's kept draws: mean L(w_t) < mean L(w*)
    num_diverged_chains: int
    status: str
    init_loss: float  # L_n(w*) over all data
    nbeta: float
    acceptance: float  # mean MALA acceptance probability of the steps, NaN where not traced
    trace: Trace = field(repr=False)
    epsilon: float = math.nan  # the step size; NaN: the sampler found its own
    # Where ε was found by `llc.calibrate`: one row a look, and its words on what needs thought.
    calibration: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    calibration_gradients: float = 0.0  # full-data-equivalent, over all chains
    calibration_seconds: float = 0.0
    advice: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.status == "ok"


def summarise(
    trace: Trace,
    nbeta: float,
    num_burn_in: int,
    epsilon: float,
    cooled: Trace | None = None,
) -> LLCEstimate:
    """The estimate at one centre; every chain of `trace` (and of `cooled`) started there."""
    return summarise_stack(trace, 1, nbeta, num_burn_in, epsilon, cooled)[0]


def summarise_stack(
    trace: Trace,
    centres: int,
    nbeta: float,
    num_burn_in: int,
    epsilon: float,
    cooled: Trace | None = None,
) -> list[LLCEstimate]:
    """The estimate at each centre; as many chains of `trace` (and of `cooled`) started at each."""
    draws = _by_centre(excess(trace, nbeta), centres)
    kept = draws[:, :, num_burn_in:]
    half, quarter = draws.shape[2] // 2, draws.shape[2] // 4
    effective, rhats = mixing.ess(kept), mixing.rhat(kept)
    means, errors = _means_and_errors(kept, effective)
    late, late_errors = _means_and_errors(draws[:, :, half:])
    early, early_errors = _means_and_errors(draws[:, :, quarter:half])
    cooled_means = cooled_errors = np.full(centres, math.nan)
    if cooled is not None:
        from_above = _by_centre(excess(cooled, nbeta), centres)
        cooled_means, cooled_errors = _means_and_errors(
            from_above[:, :, from_above.shape[2] // 2 :]
        )
    estimates = []
    for i in range(centres):
        own = _chains_of(trace, i, centres)
        above = cooled and _chains_of(cooled, i, centres)
        estimate = LLCEstimate(
            mean=float(means[i]),
            standard_error=float(errors[i]),
            per_chain=tuple(float(value) for value in kept[i].mean(1)),
            all_draws=float(draws[i].mean()),
            num_burn_in=num_burn_in,
            rhat=float(rhats[i]),
            ess=float(effective[i]),
            drift=float(late[i] - early[i]),
            drift_error=math.hypot(late_errors[i], early_errors[i]),
            companions=above is not None,
            cooled_mean=float(cooled_means[i]),
            cooled_error=float(cooled_errors[i]),
            cooled_bias=math.nan if above is None else _step_size_bias(above, epsilon),
            companion_seconds=0.0 if above is None else above.seconds,
            gradients=own.gradients + (0.0 if above is None else above.gradients),
            step_size_bias=_step_size_bias(own, epsilon),
            share_below=share_below(kept[i]),
            num_diverged_chains=int((own.diverged_at >= 0).sum()),
            status="",
            init_loss=float(own.centre_loss[0]),
            nbeta=nbeta,
            acceptance=float(own.acceptance.mean()) if own.acceptance.numel() else math.nan,
            trace=own,
            epsilon=epsilon,
        )
        object.__setattr__(estimate, "status", judge(estimate, epsilon))
        estimates.append(estimate)
    return estimates


def _chains_of(trace: Trace, centre: int, centres: int) -> Trace:
    chains = len(trace.loss) // centres
    return trace.chains(slice(centre * chains, (centre + 1) * chains))


def judge(estimate: LLCEstimate, epsilon: float) -> str:
    """The status in words: `ok`, or the first thing that is wrong and what to do about it."""
    if estimate.num_diverged_chains:
        steps = estimate.trace.diverged_at
        first, chains = int(steps[steps >= 0].min()), len(steps)
        remedy = f"epsilon={epsilon:g} is too large for the curvature here, try {epsilon / 10:g}"
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
    complaints = [*_stuck(estimate), *_complaints(estimate, epsilon)]
    return "not converged: " + "; ".join(complaints) if complaints else "ok"


def _stuck(estimate: LLCEstimate) -> Iterator[str]:
    still = standing_still(estimate.trace, estimate.num_burn_in)
    if still:
        names = ", ".join(map(str, still[:8])) + (", …" if len(still) > 8 else "")
        yield (
            f"{len(still)} of {len(estimate.per_chain)} chains stand still (chain {names}): "
            "take smaller steps, or a longer warm-up to find them"
        )


def standing_still(trace: Trace, num_burn_in: int) -> list[int]:
    """The chains whose kept draws all but never change, counted from 0.

    Not those whose moves are accepted all the same: their loss is flat.
    """
    draws = (trace.loss - trace.baseline)[:, num_burn_in:]
    changes = (draws.diff(dim=1) != 0).double()
    same = changes.sum(1) < MIN_MOVES * changes.shape[1]
    kept = trace.checked_steps >= trace.steps[min(num_burn_in, len(trace.steps) - 1)]
    accepts = trace.acceptance[:, kept].double().mean(1) >= MIN_MOVES  # NaN compares false
    return [int(chain) for chain in (same & ~accepts).nonzero().flatten()]


def _complaints(estimate: LLCEstimate, epsilon: float) -> Iterator[str]:
    tolerance = error_bound(estimate)
    if not estimate.ess >= MIN_ESS:
        yield f"ESS {estimate.ess:.0f} < {MIN_ESS:.0f}: sample longer or more chains"
    if not estimate.rhat <= MAX_RHAT:
        yield f"R-hat {estimate.rhat:.2f} > {MAX_RHAT}: sample longer"
    if not abs(estimate.drift) <= tolerance / 2:
        yield f"λ̂ drifts by {estimate.drift:+.2g} over the second half: sample longer"
    # The companions may sit in steeper places, where the same step biases more.
    bias = estimate.cooled_bias - estimate.step_size_bias
    gap = estimate.cooled_mean - estimate.mean - (0.0 if math.isnan(bias) else bias)
    if estimate.companions and math.isnan(estimate.cooled_mean):
        yield f"companion chains diverged: try epsilon={epsilon / 3:.1g}"
    elif estimate.companions and not abs(gap) <= tolerance:
        yield f"chains cooled from above read {estimate.cooled_mean:.4g}: sample longer"
    if estimate.step_size_bias > tolerance / 2:
        bias = estimate.step_size_bias
        yield f"the step biases λ̂ by about {bias:+.2g}: try epsilon={epsilon / 3:.1g}"


def error_bound(estimate: LLCEstimate) -> float:
    """How far off the exact posterior expectation `ok` allows λ̂ to be: 3 %, or 4 SE if more."""
    return max(RELATIVE_TOLERANCE * abs(estimate.mean), STANDARD_ERRORS * estimate.standard_error)


def mean_and_error(draws: Array) -> tuple[float, float]:
    """Mean of (C, T) draws and its Monte-Carlo standard error, sd/√ESS."""
    means, errors = _means_and_errors(draws[None])
    return float(means[0]), float(errors[0])


def _means_and_errors(draws: Array, effective: Array | None = None) -> tuple[Array, Array]:
    """The same for each centre of (S, C, T) draws; `effective`: their ESS, where known."""
    found = np.isfinite(draws).all((1, 2))
    effective = mixing.ess(draws) if effective is None else effective
    flat = draws.reshape(len(draws), -1)
    with np.errstate(invalid="ignore"):
        means = np.where(found, flat.mean(1), math.nan)
        # A single draw has no deviation; NumPy would warn, and its ESS is NaN anyway.
        errors = flat.std(1, ddof=min(1, flat.shape[1] - 1)) / np.sqrt(effective)
    return means, np.where(found, errors, math.nan)


def ess(draws: Array) -> float:
    """Effective sample size of (C, T) draws for their mean."""
    return float(mixing.ess(draws[None])[0])


def rhat(draws: Array) -> float:
    """Rank-normalised split R-hat of (C, T) draws; a single chain is compared with itself."""
    return float(mixing.rhat(draws[None])[0])


def excess(trace: Trace, nbeta: float) -> Array:
    """(C, T) nβ(L(w_t) − L(w*)) in float64."""
    return (nbeta * (trace.loss.double() - trace.baseline.double())).numpy()


def share_below(draws: Array, stretches: int = 50) -> float:
    """Share of stretches of the (C, T) draws whose mean is negative.

    Means, because a single minibatch often favours w_t at a perfectly good minimum.
    """
    length = max(1, draws.shape[1] // stretches)
    whole = draws[:, : draws.shape[1] // length * length]
    return float((whole.reshape(len(draws), -1, length).mean(2) < 0).mean())


def _by_centre(draws: Array, centres: int) -> Array:
    """(S·C, T) -> (S, C, T)."""
    return draws.reshape(centres, -1, draws.shape[1])


def _step_size_bias(trace: Trace, epsilon: float) -> float:
    """(ε/8)·mean ‖∇U_B‖² over the second half of the chain."""
    norms = trace.squared_gradient
    if not norms.numel():
        return math.nan
    return epsilon / 8 * float(norms[:, norms.shape[1] // 2 :].mean())


def to_inference_data(estimate: LLCEstimate) -> Any:
    """The traces as ArviZ InferenceData.

    `posterior` holds `llc`, nβ(L(w_t) − L(w*)) by draw, and where traced `w`, coordinates of
    w_t − w*; `sample_stats` holds `loss`, `baseline`,
    `diverged_at` and, where traced, `distance` and (on their own dimension `checked`, whose
    coordinates are steps) `acceptance`, `squared_gradient` and, for samplers that have one,
    `energy`.
    """
    trace = estimate.trace
    own = {"acceptance": trace.acceptance, "squared_gradient": trace.squared_gradient}
    if bool(trace.energy.isfinite().any()):
        own["energy"] = trace.energy
    checked = {name: values.numpy() for name, values in own.items() if values.numel()}
    stats = {"loss": trace.loss.numpy(), "baseline": trace.baseline.numpy()}
    if trace.distance is not None:
        stats["distance"] = trace.distance.numpy()
    draws = {"llc": excess(trace, estimate.nbeta)}
    if trace.coordinates is not None:
        draws["w"] = trace.coordinates.numpy()
    data = az.from_dict(
        posterior=draws,
        sample_stats=stats,
        coords={"draw": trace.steps.numpy()},
        posterior_attrs={
            "nbeta": estimate.nbeta,
            "init_loss": estimate.init_loss,
            "num_burn_in": estimate.num_burn_in,
        },
    )
    for name, values in checked.items():
        data.sample_stats[name] = (("chain", "checked"), values)
    if checked:
        data.sample_stats.coords["checked"] = trace.checked_steps.numpy()
    data.sample_stats["diverged_at"] = (("chain",), trace.diverged_at.numpy())
    return data
