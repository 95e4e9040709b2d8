"""Numbers of draws: means, errors, effective sizes."""

import math

import numpy as np
from numpy.typing import NDArray

from llc import mixing
from llc.trace import Trace

Array = NDArray[np.float64]


def mean_and_error(draws: Array) -> tuple[float, float]:
    """Mean of (C, T) draws and its Monte-Carlo standard error, sd/√ESS."""
    means, errors = means_and_errors(draws[None])
    return float(means[0]), float(errors[0])


def means_and_errors(draws: Array, effective: Array | None = None) -> tuple[Array, Array]:
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
