"""Effective sample size and R-hat of many centres at once (Vehtari et al. 2021).

Number for number what `arviz.ess(method="mean")` and `arviz.rhat` give for one centre (the tests
compare the two): at hundreds of checkpoints of a hundred draws each, calling ArviZ for every one
takes longer than the sampling.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.stats import norm, rankdata

Array = NDArray[np.float64]

MIN_DRAWS = 4
AT_ONCE = 2**21  # numbers in one go; the transforms need some ten times as much


def ess(draws: Array) -> Array:
    """Effective draws for the mean over chains: (S, C, T) -> (S,).

        C·T/τ,   τ = −1 + 2 Σ_k (ρ_2k + ρ_2k+1),
    ρ_t the autocorrelation at lag t of all chains, split in halves and against their common mean;
    the sum ends at the first pair that is not positive, and its terms never grow (Geyer 1992).
    NaN where a draw is not finite or there are fewer than four.
    """
    return _of_finite(_ess, draws)


def rhat(draws: Array) -> Array:
    """Rank-normalised split R-hat, bulk or folded, whichever is larger: (S, C, T) -> (S,).

    A single chain is compared with itself. NaN where a draw is not finite or there are fewer than
    four (eight of a single chain).
    """
    if draws.shape[1] == 1:
        half = draws.shape[2] // 2
        draws = draws[:, 0, : 2 * half].reshape(len(draws), 2, half)
    return _of_finite(_rhat, draws)


def _of_finite(statistic: Callable[[Array], Array], draws: Array) -> Array:
    result = np.full(len(draws), np.nan)
    if draws.shape[2] < MIN_DRAWS:
        return result
    finite = np.flatnonzero(np.isfinite(draws).all((1, 2)))
    size = max(1, AT_ONCE // draws[0].size)
    with np.errstate(divide="ignore", invalid="ignore"):  # constant draws
        for start in range(0, len(finite), size):
            part = finite[start : start + size]
            result[part] = statistic(draws[part])
    return result


def _halves(draws: Array) -> Array:
    """(S, C, T) -> (S, 2C, T/2); the middle draw of an odd number is left out."""
    half = draws.shape[2] // 2
    return np.concatenate([draws[:, :, :half], draws[:, :, -half:]], axis=1)


def _ess(draws: Array) -> Array:
    split = _halves(draws)
    count = split.shape[2]
    size = split[0].size
    lags = autocovariance(split).mean(1)
    within = lags[:, :1] * count / (count - 1)
    total = lags[:, :1] + split.mean(2).var(1, ddof=1, keepdims=True)
    rho = 1 - (within - lags) / total
    rho[:, 0] = 1
    last = max(0, (count - 3) // 2)
    even = rho[:, : 2 * last + 1 : 2]
    pairs = even + rho[:, 1 : 2 * last + 2 : 2]
    ends = np.where((pairs <= 0).any(1), (pairs <= 0).argmax(1), last)[:, None]
    before = np.arange(last + 1) < ends
    falling = np.minimum.accumulate(pairs, axis=1)
    # Half of the pair at which the sum ends still counts, unless it pulls the sum down.
    at_end, pair = np.take_along_axis(even, ends, 1), np.take_along_axis(pairs, ends, 1)
    tail = np.where((at_end > 0) | (pair >= 0), at_end, 0)[:, 0]
    tau = np.maximum(2 * np.where(before, falling, 0).sum(1) + tail - 1, 1 / np.log10(size))
    constant = np.ptp(split, axis=(1, 2)) < np.finfo(float).resolution
    effective: Array = np.where(constant, size, size / tau)
    return effective


def autocovariance(draws: Array) -> Array:
    """Of each chain at every lag: (S, C, T) -> (S, C, T)."""
    count = draws.shape[2]
    length = next_fast_len(2 * count)
    waves = np.fft.rfft(draws - draws.mean(2, keepdims=True), n=length)
    covariance: Array = np.fft.irfft(waves * waves.conj(), n=length)[:, :, :count] / count
    return covariance


def _rhat(draws: Array) -> Array:
    split = _halves(draws)
    folded = np.abs(split - np.median(split, axis=(1, 2), keepdims=True))
    bulk, tail = _ratio(_normal_scores(split)), _ratio(_normal_scores(folded))
    return np.where(tail > bulk, tail, bulk)  # of folded draws that are all equal: the bulk


def _normal_scores(draws: Array) -> Array:
    """Φ⁻¹((rank − 3/8)/(N + 1/4)), ranks among all N draws of a centre (Blom 1958)."""
    flat = draws.reshape(len(draws), -1)
    scores = norm.ppf((rankdata(flat, axis=1) - 3 / 8) / (flat.shape[1] + 1 / 4))
    return np.asarray(scores).reshape(draws.shape)


def _ratio(draws: Array) -> Array:
    """√(variance of all draws / variance within chains)."""
    count = draws.shape[2]
    between = count * draws.mean(2).var(1, ddof=1)
    within = draws.var(2, ddof=1).mean(1)
    ratio: Array = np.sqrt((between / within + count - 1) / count)
    return ratio
