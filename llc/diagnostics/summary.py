"""Trace -> Estimate."""

import math
from collections.abc import Sequence

import numpy as np

from llc import mixing
from llc.diagnostics.numbers import Array, excess, means_and_errors, share_below
from llc.diagnostics.result import Estimate
from llc.diagnostics.status import judge
from llc.trace import Trace


def summarise(
    trace: Trace,
    nbeta: float,
    num_burn_in: int,
    epsilon: float,
    cooled: Trace | None = None,
) -> Estimate:
    """The estimate at one centre; every chain of `trace` (and of `cooled`) started there."""
    return summarise_stack(trace, 1, nbeta, num_burn_in, epsilon, cooled)[0]


def summarise_stack(
    trace: Trace,
    centres: int,
    nbeta: float | Sequence[float],
    num_burn_in: int,
    epsilon: float | Sequence[float],
    cooled: Trace | None = None,
) -> list[Estimate]:
    """The estimate at each centre; as many chains of `trace` (and of `cooled`) started at each.

    nbeta, epsilon: of all centres, or of each.
    """
    nbetas, epsilons = (np.broadcast_to(value, centres).tolist() for value in (nbeta, epsilon))
    traces = _by_centre(trace, centres)
    draws = _excesses(traces, nbetas)
    kept = draws[:, :, num_burn_in:]
    half, quarter = draws.shape[2] // 2, draws.shape[2] // 4
    effective, rhats = mixing.ess(kept), mixing.rhat(kept)
    means, errors = means_and_errors(kept, effective)
    late, late_errors = means_and_errors(draws[:, :, half:])
    early, early_errors = means_and_errors(draws[:, :, quarter:half])
    cooled_means = cooled_errors = np.full(centres, math.nan)
    cooled_traces: list[Trace] = []
    if cooled is not None:
        cooled_traces = _by_centre(cooled, centres)
        from_above = _excesses(cooled_traces, nbetas)
        cooled_means, cooled_errors = means_and_errors(from_above[:, :, from_above.shape[2] // 2 :])
    estimates = []
    for i, (own, beta, step) in enumerate(zip(traces, nbetas, epsilons, strict=True)):
        above = cooled_traces[i] if cooled_traces else None
        estimate = Estimate(
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
            cooled_bias=math.nan if above is None else _step_size_bias(above),
            companion_seconds=0.0 if above is None else above.seconds,
            gradients=own.gradients + (0.0 if above is None else above.gradients),
            step_size_bias=_step_size_bias(own),
            share_below=share_below(kept[i]),
            num_diverged_chains=int((own.diverged_at >= 0).sum()),
            status="",
            init_loss=float(own.centre_loss[0]),
            nbeta=beta,
            acceptance=float(own.acceptance.mean()) if own.acceptance.numel() else math.nan,
            trace=own,
            epsilon=step,
        )
        object.__setattr__(estimate, "status", judge(estimate, step))
        estimates.append(estimate)
    return estimates


def _by_centre(trace: Trace, centres: int) -> list[Trace]:
    chains = len(trace.loss) // centres
    return [trace.chains(slice(i * chains, (i + 1) * chains)) for i in range(centres)]


def _excesses(traces: list[Trace], nbetas: list[float]) -> Array:
    """(S, C, T) nβ(L(w_t) − L(w*))."""
    return np.stack([excess(*each) for each in zip(traces, nbetas, strict=True)])


def _step_size_bias(trace: Trace) -> float:
    """(ε/8)·mean ‖∇U_B‖² over the second half of the chain."""
    biases = trace.step_size * trace.squared_gradient / 8
    if not biases.numel():
        return math.nan
    return float(biases[:, biases.shape[1] // 2 :].mean())
