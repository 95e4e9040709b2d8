"""What an ideal sampler reports at finite n: E[nβ(L(w) − L(w*))] under the local posterior.

The local posterior is p(w) ∝ exp(−nβ L(w) − (γ/2)‖w − w*‖²). At finite n its expectation differs
from the asymptotic λ, so that tests of samplers compare with these values.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

_CHUNK = 2**17  # points evaluated at once; small enough to stay in cache
_LONGEST_AXIS = 2**20  # nodes


class _Axis(NamedTuple):
    nodes: FloatArray
    weights: FloatArray


class _Sums(NamedTuple):
    mass: float
    energy: float


def quadratic(curvatures: ArrayLike, nbeta: float, gamma: float) -> float:
    """Compute E[nβ(L − L*)] for L(w) = ½ Σ hᵢ (wᵢ − wᵢ*)², exactly.

        ½ Σ nβhᵢ / (nβhᵢ + γ)

    The local posterior of Lau et al. 2023, "The local learning coefficient: a singularity-aware
    complexity measure", is Gaussian here, with variances 1/(nβhᵢ + γ).

    curvatures: the hᵢ, any shape. nbeta: nβ > 0. gamma: γ ≥ 0.
    Raises: ValueError if an argument is out of range, or some nβhᵢ + γ is not positive (the
        posterior is then improper).
    """
    h, a = _curvatures_and_precisions(curvatures, nbeta, gamma)
    return 0.5 * float(np.sum(nbeta * h / a))


def quadratic_sgld(curvatures: ArrayLike, nbeta: float, gamma: float, epsilon: float) -> float:
    """Compute the stationary E[nβ(L − L*)] of full-batch SGLD on L(w) = ½ Σ hᵢ (wᵢ − wᵢ*)².

        ½ Σ nβhᵢ / (aᵢ(1 − εaᵢ/4)),    aᵢ = nβhᵢ + γ,

    for the step Δw = −(ε/2)∇U + √ε ξ, U = nβL + (γ/2)‖w − w*‖² (Lau et al. 2023): each
    coordinate is an autoregression with coefficient 1 − εaᵢ/2 and noise variance ε, hence with
    variance 1/(aᵢ(1 − εaᵢ/4)). It is stable iff εaᵢ < 4 for every i.

    curvatures: the hᵢ, any shape. nbeta: nβ > 0. gamma: γ ≥ 0. epsilon: the step size ε > 0.
    Raises: ValueError if an argument is out of range, some nβhᵢ + γ is not positive, or the
        step is not stable.
    """
    h, a = _curvatures_and_precisions(curvatures, nbeta, gamma)
    _require_positive("epsilon", epsilon)
    steepest = int(a.argmax())
    if epsilon * a[steepest] >= 4:
        raise ValueError(
            f"epsilon is {epsilon:g}, not stable for the largest curvature {h[steepest]:g}; "
            f"use one below 4/(nbeta*curvature + gamma) = {4 / a[steepest]:g}"
        )
    return 0.5 * float(np.sum(nbeta * h / (a * (1 - epsilon * a / 4))))


def quadrature(
    loss: Callable[[FloatArray], FloatArray],
    nbeta: float,
    gamma: float,
    dimension: int,
    *,
    tolerance: float = 1e-6,
    max_points: int = 10**8,
    dip: float = 0.0,
) -> float:
    """Compute E[nβ(L(w) − L(0))] under p(w) ∝ exp(−nβ L(w) − (γ/2)‖w‖²) by quadrature.

        ∫ nβ(L(w) − L(0)) p(w) dw / ∫ p(w) dw,    wᵢ = ±exp(uᵢ), trapezoidal rule in every uᵢ

    The posterior is that of Lau et al. 2023 with w* = 0. In log coordinates a singular loss such
    as w₁²w₂² changes at scale one wherever it changes, along the thin arms of its zero set too,
    and the trapezoidal rule converges exponentially. The step and the innermost node shrink until
    successive grids agree on the expectation and on the normalisation. A zero set that is thin
    and oblique to the axes needs many points, and the tolerance may be out of reach; an isolated
    well away from the axes, too thin for any grid that was tried, goes unseen.

    loss: vectorised, (..., dimension) -> (...), smallest at w = 0. nbeta: nβ > 0. gamma: γ > 0.
    dimension: 1, 2 or 3. tolerance: relative, at most 0.01. max_points: of the largest grid.
    dip: how far the loss may fall below L(0); that of a sample does, by O(1/n).
    Returns: the expectation, in tens of nanoseconds a point and a few tens of megabytes.
    Raises: ValueError if an argument is out of range, if the loss returns a wrong shape, a NaN or
        values below L(0), or if the tolerance is not met within `max_points`.
    """
    _require_positive("nbeta", nbeta)
    _require_positive("gamma", gamma)
    _require_positive("tolerance", tolerance)
    if tolerance > 0.01:
        raise ValueError(f"tolerance is {tolerance:g}; give at most 0.01, or grids agree by chance")
    if dimension not in (1, 2, 3):
        raise ValueError(f"dimension is {dimension!r}; use 1, 2 or 3")
    if not 0 <= dip * nbeta <= 100:  # beyond it the posterior is nowhere near w = 0
        raise ValueError(f"dip is {dip!r}; give a number from 0 to 100/nbeta = {100 / nbeta:g}")
    origin = float(_values(loss, np.zeros((1, dimension)))[0])
    coarse, error = None, math.inf
    for level in itertools.count():
        axis = _axis(level, nbeta, gamma, tolerance)
        if axis.nodes.size**dimension > min(max_points, _LONGEST_AXIS**dimension):
            raise ValueError(
                f"quadrature reached a relative error of {error:.1e}, not tolerance {tolerance:g}, "
                f"within max_points {max_points}; raise one of them or lower nbeta"
            )
        fine = _integrate(loss, origin, nbeta, gamma, axis, dimension, dip)
        if coarse is not None:
            previous, error = error, _relative_error(coarse, fine)
            # Convergence is exponential, so the previous change was already small. Where the
            # grid resolves nothing, two changes are rarely small by chance.
            if error <= tolerance and previous <= math.sqrt(tolerance):
                break
        coarse = fine
    return fine.energy / fine.mass


def _require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value!r}; give a finite number above 0")


def _curvatures_and_precisions(
    curvatures: ArrayLike, nbeta: float, gamma: float
) -> tuple[FloatArray, FloatArray]:
    """Return the hᵢ, flat, and aᵢ = nβhᵢ + γ, checked to be positive."""
    _require_positive("nbeta", nbeta)
    if not (math.isfinite(gamma) and gamma >= 0):
        raise ValueError(f"gamma is {gamma!r}; give a finite number, 0 or more")
    h = np.asarray(curvatures, dtype=np.float64).ravel()
    if h.size == 0:
        raise ValueError("curvatures are empty; give at least one")
    a = nbeta * h + gamma
    bad = ~(np.isfinite(a) & (a > 0))
    if bad.any():
        raise ValueError(
            f"curvatures hold {h[bad][0]:g}, whose precision nbeta*curvature + gamma is "
            f"{a[bad][0]:g}; make it finite and positive with a larger curvature or gamma"
        )
    return h, a


def _axis(level: int, nbeta: float, gamma: float, tolerance: float) -> _Axis:
    """Return ±exp(u) on an even grid of u, ever finer with the level, and closer to zero."""
    step = 0.75 * (2 / 3) ** level
    # Replacing a smooth p by a constant below the first node errs by the cube of its distance.
    floor = 0.1 * tolerance ** (1 / 3) * 0.25**level / math.sqrt(nbeta + gamma)
    ceiling = 12 / math.sqrt(gamma)  # beyond it the localisation leaves exp(−72)
    count = math.ceil(math.log(ceiling / floor) / step)
    w = floor * np.exp(step * np.arange(count))
    weights = step * w
    weights[0] /= 1 - math.exp(-step)  # the sum of the geometric tail of nodes below the first
    return _Axis(np.concatenate([-w[::-1], w]), np.concatenate([weights[::-1], weights]))


def _integrate(
    loss: Callable[[FloatArray], FloatArray],
    origin: float,
    nbeta: float,
    gamma: float,
    axis: _Axis,
    dimension: int,
    dip: float,
) -> _Sums:
    """Integrate p and nβ(L − L(0))p over axis^dimension, a chunk of rows at a time."""
    rows = max(1, _CHUNK // axis.nodes.size ** (dimension - 1))
    totals = np.zeros(2)
    for start in range(0, axis.nodes.size, rows):
        part = _Axis(*(column[start : start + rows] for column in axis))
        axes = [part] + [axis] * (dimension - 1)
        w = np.stack(np.meshgrid(*(a.nodes for a in axes), indexing="ij"), axis=-1)
        excess = _values(loss, w) - origin
        if excess.min() < -dip - 1e-12 * max(1.0, abs(origin)):
            raise ValueError(f"loss falls {-excess.min():g} below its value at 0; centre it there")
        with np.errstate(over="ignore"):
            mass = np.exp(-nbeta * excess - 0.5 * gamma * np.sum(w * w, axis=-1))
        for k, a in enumerate(axes):
            mass *= a.weights.reshape(-1, *(1,) * (dimension - 1 - k))
        excess[mass == 0] = 0  # where it may be infinite
        totals += mass.sum(), nbeta * np.vdot(excess, mass)
    return _Sums(*totals.tolist())


def _values(loss: Callable[[FloatArray], FloatArray], w: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):  # far out a loss may be infinite: p is zero there
        values = np.asarray(loss(w), dtype=np.float64)
    if values.shape != w.shape[:-1]:
        raise ValueError(
            f"loss maps {w.shape} to {values.shape}; it must return {w.shape[:-1]}, "
            "one value per point"
        )
    if np.isnan(values).any():
        raise ValueError("loss returned NaN; it must be a number for every w")
    return values


def _relative_error(coarse: _Sums, fine: _Sums) -> float:
    """Return the larger of two relative changes, of the expectation and of the mass.

    The mass tells where the expectation does not: on a ridge that no grid resolves.
    """
    if not (coarse.mass > 0 and fine.mass > 0):
        return math.inf
    before, after = coarse.energy / coarse.mass, fine.energy / fine.mass
    change = 0.0 if before == after else abs(after - before) / max(abs(after), abs(before))
    return max(change, abs(1 - coarse.mass / fine.mass))
