"""Problems of few parameters or a simple form, whose finite-n expectation can be computed."""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vecdot

from llc import theory
from llc.config import ConfigError
from llc.models.functions import FunctionLoss, potential_loss
from llc.params import Params, count
from llc.problems.base import Exact, Plan, Problem, Setting, fixed_size, whole
from llc.problems.oracles import (
    FloatArray,
    by_quadrature,
    equal_weights,
    pointwise,
    sample_rule,
    weighted_mean,
)
from llc.theory import Coefficient

DEFAULT_CURVATURES = 50
LARGEST_QUADRATURE = 3  # dimensions
TANH_REASON = "L = a²b²·(a positive analytic function) near w*: the normal crossing k = (1, 1)"
MIXTURE_REASON = "K = θ⁴b²·(a positive analytic function) near w*: the normal crossing k = (2, 1)"


def quadratic(
    setting: Setting,
    *,
    curvatures: Sequence[float] | None = None,
    curvature_range: tuple[float, float] = (0.01, 1.0),
) -> Plan:
    """L(w) = ½ Σ hᵢ wᵢ², the same for every example; λ = (number of hᵢ > 0)/2.

    The hᵢ are the `curvatures`, 0 for a flat direction, or else `target_params` of them, evenly
    spaced in the logarithm over `curvature_range`.
    """
    if curvatures is None:
        size = setting.target_params or DEFAULT_CURVATURES
        low, high = curvature_range
        if not 0 < low <= high < math.inf:
            raise ConfigError(f"curvature_range={curvature_range!r}: must be 0 < low ≤ high")
        h = torch.logspace(math.log10(low), math.log10(high), size, dtype=torch.float64)
    else:
        h = torch.tensor(curvatures, dtype=torch.float64)
    if not bool(((h >= 0) & h.isfinite()).all() and h.any()):
        raise ConfigError(f"curvatures={curvatures!r}: must be numbers, 0 or more, not all 0")
    placed = setting.put(h)

    def potential(weights: Params) -> Tensor:
        return slope(weights)[0]

    def slope(weights: Params) -> tuple[Tensor, Params]:
        grad = placed * weights["w"]
        return vecdot(grad, weights["w"]) / 2, {"w": grad}

    return _at_zero(
        "quadratic",
        f"quadratic, curvatures {h.min():.3g} … {h.max():.3g}",
        setting,
        potential_loss(potential, {"w": (len(h),)}, setting.num_training_data, slope),
        Coefficient(Fraction(int((h > 0).sum()), 2), 1),
        "half the number of positive curvatures",
        partial(theory.quadratic, h.numpy()),
    )


def normal_crossing(setting: Setting, *, exponents: Sequence[int] | None = None) -> Plan:
    """L(w) = ∏ wᵢ^{2kᵢ}, the same for every example, at w* = 0 (Watanabe 2009, section 2.4).

    exponents: the kᵢ, by default (1, …, 1), `target_params` or two of them.
    """
    if exponents is None:
        exponents = (1,) * (setting.target_params or 2)
    powers = torch.tensor([2 * whole(f"exponents[{i}]", k, 0) for i, k in enumerate(exponents)])
    if not powers.any():
        raise ConfigError(f"exponents={exponents!r}: at least one must be positive")

    def potential(weights: Params) -> Tensor:
        return weights["w"].pow(powers.to(weights["w"].device)).prod(-1)

    values = pointwise(lambda points: potential({"w": points}))
    low = len(exponents) <= LARGEST_QUADRATURE
    return _at_zero(
        "normal_crossing",
        f"normal crossing, exponents {', '.join(map(str, exponents))}",
        setting,
        potential_loss(potential, {"w": (len(exponents),)}, setting.num_training_data),
        theory.normal_crossing(exponents),
        "a normal crossing, Watanabe 2009",
        by_quadrature(values, len(exponents)) if low else None,
    )


def tanh(setting: Setting) -> Plan:
    """One hidden tanh unit on answers that are all zero, at a = b = 0.

        L_n(a, b) = a² (1/n) Σ_i tanh²(b x_i),    x_i ~ N(0, 1).

    The squared error of f(x) = a tanh(bx). λ = 1/2 with multiplicity 2 (Watanabe 2009, "Algebraic
    Geometry and Statistical Learning Theory").
    """
    data = setting.put(setting.inputs(1))
    unit_mean = weighted_mean(tanh_losses, *equal_weights(_sample(data)))

    def values(points: FloatArray) -> FloatArray:
        """L at points (…, 2), here (b, a): the mean over the data is taken once for every |b|."""
        slopes, back = np.unique(np.abs(points[..., 0]), return_inverse=True)
        means = unit_mean(np.stack([np.ones_like(slopes), slopes], axis=-1))
        result: FloatArray = points[..., 1] ** 2 * means[back].reshape(points.shape[:-1])
        return result

    return _at_zero(
        "tanh",
        "one tanh unit, zero function",
        setting,
        FunctionLoss(tanh_losses, {"w": (2,)}, data),
        Coefficient(Fraction(1, 2), 2),
        TANH_REASON,
        by_quadrature(values, 2),
    )


def tanh_losses(weights: Params, examples: Tensor) -> Tensor:
    """(a tanh(bx))², w = (a, b)."""
    a, b = weights["w"].unsqueeze(-1).unbind(-2)
    return (a * torch.tanh(b * examples.squeeze(-1))).square()


def gaussian_mixture(setting: Setting) -> Plan:
    """The mixture (1 − α) N(0, 1) + α N(b, 1) on a sample of N(0, 1), at w* = (θ, b) = (0, 0).

        ℓ(w, x) = −log p(x|w)/p(x|w*) = log(1 + θ²) − log(1 + θ² exp(bx − b²/2)),  α = θ²/(1 + θ²).

    θ² are the odds of the second component. With α itself as parameter p would be a density on one
    side of w* only, and no gradient could be followed there. The Kullback-Leibler distance, about
    α²b²/2 near w*, is θ⁴b²/2 in these coordinates, hence λ = 1/4 with multiplicity 1 (λ = 1/2 with
    multiplicity 2 is the value for a prior that is flat in α). As with any sample, L_n falls below
    L_n(w*), by O(1/n).
    """
    data = setting.put(setting.inputs(1))
    # 2n·dip is a likelihood ratio: 20 is out of reach for a sample of the truth.
    dip = 10 / setting.num_training_data

    def exact(nbeta: float, gamma: float) -> float:
        values = weighted_mean(mixture_losses, *sample_rule(_sample(data)))
        return by_quadrature(values, 2, dip)(nbeta, gamma)

    return _at_zero(
        "gaussian_mixture",
        "mixture of two normals, truth a single one",
        setting,
        FunctionLoss(mixture_losses, {"w": (2,)}, data),
        Coefficient(Fraction(1, 4), 1),
        MIXTURE_REASON,
        exact,
    )


def mixture_losses(weights: Params, examples: Tensor) -> Tensor:
    """log(1 + θ²) − log(1 + θ² exp(bx − b²/2)), w = (θ, b); the exponent is at most x²/2."""
    theta, b = weights["w"].unsqueeze(-1).unbind(-2)
    odds = theta.square()
    return odds.log1p() - (odds * (b * (examples.squeeze(-1) - b / 2)).exp()).log1p()


def _sample(data: Tensor) -> Tensor:
    """The data (n, 1) as (n,), for the oracles on the CPU."""
    return data.squeeze(-1).to("cpu", torch.float64)


def _at_zero(
    name: str,
    description: str,
    setting: Setting,
    loss: FunctionLoss,
    known: Coefficient,
    reason: str,
    exact: Exact | None,
) -> Plan:
    """The problem at w* = 0, checked to be of the size that is asked for."""
    centre = {leaf: setting.put(torch.zeros(shape)) for leaf, shape in loss.shapes.items()}
    fixed_size(setting, count(loss.shapes), description)
    return lambda: Problem(name, description, loss, centre, known, reason, exact)
