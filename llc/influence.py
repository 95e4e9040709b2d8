"""What the chains say about how losses go together: covariances under the local posterior.

With losses ℓ_i(w) recorded along the chains (`estimate_llc(..., observables=)`), w drawn from
p(w) ∝ exp(−nβ L(w) − (γ/2)‖w − w*‖²):

- `covariance`: Cov(a, b), in nats² where a and b are losses in nats;
- `correlation`: Cov(a, b) / (sd a · sd b), without unit, between −1 and 1;
- `influence`: the Bayesian influence function BIF(z_i, φ) = −Cov(φ(w), ℓ_i(w)) (Kreer et al. 2025);
- `susceptibility`: χ_i = −Cov(φ(w), ℓ_i(w) − L(w)) (Baker, Wang, Hoogland & Murfet 2025).

The last two are derivatives of E[φ]. Where example i counts 1 + δ times in L = (1/n)Σℓ_i,
∂E[φ]/∂δ = (nβ/n)·BIF(z_i, φ). Where the data are a mixture, L_h = (1 − h) L + h ℓ_i,
∂E[φ]/∂h = nβ·χ_i; the definition χ = (1/nβ) ∂E[φ]/∂h takes the factor out, and so does this module.

Every function takes traces (chain, draw, …) and returns (…of the first, …of the second): pure
functions, NaN (padding, diverged chains) in an entry giving NaN in whatever depends on it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Statistic(NamedTuple):
    """A number for each pair of entries, with its Monte-Carlo error."""

    value: Array
    error: Array  # standard error, by the jackknife over chains; NaN with a single one


def covariance(a: Any, b: Any, burn_in: int = 0) -> Statistic:
    """Cov(a, b): the mean of the chains' own covariances, plus that of their means.

        Σ̂ = (1/CT) Σ_ct (a_ct − ā_c)(b_ct − b̄_c) + (1/(C−1)) Σ_c (ā_c − ā)(b̄_c − b̄).

    The first term alone leaves out how the chains' means vary, which with autocorrelated draws is
    not little; their sum is unbiased for independent stationary chains, whatever the
    autocorrelation (the multivariate form of R-hat's var⁺; Gelman & Rubin 1992). A single chain:
    the first term, over T − 1.

    a, b: traces (C, T, …) of the same chains. burn_in: draws left out at the start.
    Returns: (…a, …b); the jackknife takes as much memory as C + 2 of them.
    Raises: ValueError for traces of other chains or draws, or too few of them.
    """
    return _measured(_covariance, a, b, burn_in)


def correlation(a: Any, b: Any, burn_in: int = 0) -> Statistic:
    """Cov(a, b) / √(Cov(a, a) Cov(b, b)), entry by entry, by `covariance`'s estimate of each.

    NaN for an entry that does not vary. Arguments, returns and errors as there.
    """
    return _measured(_correlation, a, b, burn_in)


def influence(losses: Any, observable: Any, burn_in: int = 0) -> Statistic:
    """BIF(z_i, φ_j) = −Cov(φ_j(w), ℓ_i(w)): positive where more weight on z_i raises E[φ_j].

    With φ_j the loss of a query, a negative BIF marks examples that help it. Times nβ/n: the
    derivative of E[φ_j] by the number of times that z_i counts among the n (Kreer et al. 2025,
    'Bayesian influence functions for Hessian-free data attribution').

    losses: ℓ (C, T, …). observable: φ (C, T, …). Returns: (…losses, …observable), `covariance`'s.
    """
    value, error = covariance(losses, observable, burn_in)
    return Statistic(-value, error)


def susceptibility(losses: Any, loss: Any, observable: Any, burn_in: int = 0) -> Statistic:
    """χ_i = −Cov(φ(w), ℓ_i(w) − L(w)): how E[φ] answers to a shift of the data towards z_i.

    χ = (1/nβ) ∂E[φ]/∂h at h = 0, where the data are a mixture with a share h of z_i. Of a component
    of a network φ is the loss itself with all other weights held at w* (Baker, Wang, Hoogland &
    Murfet 2025, 'Structural inference: interpreting small language models with
    susceptibilities'): sample the component alone, `params=`, and give L as `observable` too. The
    covariance is then that of the posterior restricted to the component.

    losses: ℓ (C, T, …). loss: L (C, T), the mean over a fixed data set; the loss of each draw's
    own minibatch will not do, whose noise would count as variance of L. observable: φ (C, T, …).
    Returns: (…losses, …observable), `covariance`'s.
    """
    own, whole = np.asarray(losses, np.float64), np.asarray(loss, np.float64)
    if own.ndim < 2 or whole.shape != own.shape[:2]:
        raise ValueError(f"loss: is {whole.shape}: must be (chain, draw), {own.shape[:2]}")
    return influence(own - whole.reshape(*whole.shape, *[1] * (own.ndim - 2)), observable, burn_in)


def _measured(
    statistic: Callable[[Array, Array], Array], a: Any, b: Any, burn_in: int
) -> Statistic:
    """`statistic` of two flat traces (C, T, A) and (C, T, B), with its jackknife error.

    √((C−1)/C Σ_c (Σ̂₍₋c₎ − mean)²), Σ̂₍₋c₎ without chain c (Efron & Stein 1981).
    """
    one, other = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(one.ndim, other.ndim) < 2 or one.shape[:2] != other.shape[:2]:
        raise ValueError(
            f"traces: are {one.shape} and {other.shape}: must be (chain, draw, …) of the same "
            "chains and draws"
        )
    chains, draws = one.shape[:2]
    if not 0 <= burn_in <= draws - 2:
        raise ValueError(f"burn_in={burn_in}: must leave at least 2 of the {draws} draws")
    shape = one.shape[2:] + other.shape[2:]
    flat = [trace[:, burn_in:].reshape(chains, draws - burn_in, -1) for trace in (one, other)]
    value = statistic(*flat)
    if chains == 1:
        error = np.full_like(value, np.nan)
    else:
        without = [statistic(*(np.delete(trace, c, 0) for trace in flat)) for c in range(chains)]
        error = np.sqrt(chains - 1) * np.std(without, axis=0)
    return Statistic(value.reshape(shape), error.reshape(shape))


def _covariance(a: Array, b: Array) -> Array:
    product: Array = _deviations(a).T @ _deviations(b)
    return product


def _correlation(a: Array, b: Array) -> Array:
    one, other = _deviations(a), _deviations(b)
    sizes = [np.sqrt(np.square(rows).sum(0)) for rows in (one, other)]
    with np.errstate(invalid="ignore"):
        quotient: Array = one.T @ other / np.outer(*sizes)
    return quotient


def _deviations(trace: Array) -> Array:
    """Rows (·, A) of a trace (C, T, A) whose products sum to Σ̂: draws off their chain's mean, means
    off their mean. Exactly 0 for an entry that does not vary: sums round, and its means are not
    quite it."""
    chains, draws, entries = trace.shape
    means = trace.mean(1)
    rows: Array = (trace - means[:, None]).reshape(-1, entries)
    if chains == 1:
        rows /= np.sqrt(draws - 1)
    else:
        between = means - means.mean(0)
        rows = np.concatenate([rows / np.sqrt(chains * draws), between / np.sqrt(chains - 1)])
    rows[:, (trace == trace[0, 0]).all((0, 1))] = 0
    return rows
