"""Finite-n expectations by quadrature over two or three parameters, on a problem's own data."""

from collections.abc import Callable
from math import pi

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llc.models.functions import PerExample
from llc.problems.base import Exact
from llc.theory import quadrature

FloatArray = NDArray[np.float64]
Values = Callable[[FloatArray], FloatArray]

NODES = 128  # that stand for a sample; 512 change the last digit of the mixture's oracle
_AT_ONCE = 2**20  # losses of examples


def by_quadrature(values: Values, dimension: int, dip: float = 0.0) -> Exact:
    """(nβ, γ) -> E[nβ(L(w) − L(0))] for L given by `values`, points (…, dimension) to (…)."""
    return lambda nbeta, gamma: quadrature(values, nbeta, gamma, dimension, dip=dip)


def pointwise(function: Callable[[Tensor], Tensor]) -> Values:
    """`function`, points (P, d) to (P,), for arrays of any shape (…, d)."""

    def values(points: FloatArray) -> FloatArray:
        flat = torch.from_numpy(points.reshape(-1, points.shape[-1]))
        return function(flat).numpy().reshape(points.shape[:-1])

    return values


def weighted_mean(per_example: PerExample, nodes: Tensor, weights: Tensor) -> Values:
    """Points (…, d) -> Σ_j weights_j ℓ(point, nodes_j), in chunks of bounded memory."""
    rows = max(1, _AT_ONCE // len(nodes))

    def mean(points: Tensor) -> Tensor:
        parts = torch.split(points, rows)
        return torch.cat(
            [per_example({"w": part}, nodes[None, :, None]) @ weights for part in parts]
        )

    return pointwise(mean)


def equal_weights(sample: Tensor) -> tuple[Tensor, Tensor]:
    """The sample itself as nodes, and their weights 1/n."""
    return sample, torch.full_like(sample, 1 / len(sample))


def sample_rule(sample: Tensor, size: int = NODES) -> tuple[Tensor, Tensor]:
    """At most `size` nodes z and weights ω with Σ_j ω_j f(z_j) = (1/n) Σ_i f(x_i) for smooth f.

    The nodes are Chebyshev's on the range of the sample (n,) and f is interpolated there,
        ω_j = (1/M) (c_0 + 2 Σ_{0<k<M} c_k T_k(t_j)),    c_k = (1/n) Σ_i T_k(x_i),
    t and x scaled to [−1, 1]: exact for polynomials below degree M, and for analytic f as good as
    its Chebyshev series of length M (Trefethen 2013, "Approximation theory and approximation
    practice", chapter 19). Samples of at most `size` points stand for themselves.
    """
    if len(sample) <= size:
        return equal_weights(sample)
    low, high = sample.min(), sample.max()
    middle, half = (high + low) / 2, (high - low) / 2
    at = ((sample - middle) / half).clamp(-1, 1).arccos()
    moments = torch.stack([torch.cos(degree * at).mean() for degree in range(size)])
    moments[1:] *= 2
    degrees = torch.arange(size, dtype=sample.dtype)
    angles = (degrees + 0.5) * pi / size
    return middle + half * angles.cos(), torch.cos(torch.outer(angles, degrees)) @ moments / size
