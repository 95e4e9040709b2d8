"""Exact learning coefficients, and what an ideal sampler would report at finite n."""

from llc.theory.classical import (
    Coefficient,
    normal_crossing,
    reduced_rank_regression,
    sum_of_powers,
)
from llc.theory.dln import deep_linear, deep_linear_local, generic_partial_ranks
from llc.theory.finite import quadratic, quadratic_sgld, quadrature

__all__ = [
    "Coefficient",
    "deep_linear",
    "deep_linear_local",
    "generic_partial_ranks",
    "normal_crossing",
    "quadratic",
    "quadratic_sgld",
    "quadrature",
    "reduced_rank_regression",
    "sum_of_powers",
]
