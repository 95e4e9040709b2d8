"""Learning coefficients known in closed form, as exact rationals."""

import math
import operator
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple


class Coefficient(NamedTuple):
    """A learning coefficient λ and its multiplicity m (None where it is not known).

    In the free energy F_n ≈ nL_n(w*) + λ log n − (m − 1) log log n (Watanabe 2009).
    """

    value: Fraction
    multiplicity: int | None


def whole_number(name: str, value: Any, least: int) -> int:
    """Return `value` as an int, or raise a ValueError naming `name` and the remedy.

    Integers of numpy and torch count as whole numbers, floats do not.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; give a whole number, {least} or more") from None
    if number < least:
        raise ValueError(f"{name} is {number}; give a whole number, {least} or more")
    return number


def whole_numbers(name: str, values: Sequence[Any], least: int) -> list[int]:
    """Return `values` as a list of ints; the ValueError names the first entry that is not one."""
    return [whole_number(f"{name}[{i}]", value, least) for i, value in enumerate(values)]


def reduced_rank_regression(inputs: int, outputs: int, hidden: int, rank: int) -> Coefficient:
    """Compute λ and its multiplicity for reduced-rank regression y = BAx, the most singular point.

    With M inputs, N outputs, H hidden units and a true product of rank r:

        N+r ≤ M+H, M+r ≤ N+H, H+r ≤ M+N:
            λ = (2(H+r)(M+N) + 2MN − (H+r)² − M² − N²) / 8,        m = 1, if M+H+N+r is even,
            λ = (2(H+r)(M+N) + 2MN − (H+r)² − M² − N² + 1) / 8,    m = 2, if it is odd;
        M+H < N+r:  λ = (HM − Hr + Nr) / 2,  m = 1;
        N+H < M+r:  λ = (HN − Hr + Mr) / 2,  m = 1;
        M+N < H+r:  λ = MN / 2,              m = 1.

    Aoyagi and Watanabe 2005, "Stochastic complexities of reduced rank regression in Bayesian
    estimation", Neural Networks 18, main theorem.

    Returns: `Coefficient` in exact rationals.
    Raises: ValueError if a size is below 1, or the rank is negative or above the smallest size.
    """
    m = whole_number("inputs", inputs, 1)
    n = whole_number("outputs", outputs, 1)
    h = whole_number("hidden", hidden, 1)
    r = whole_number("rank", rank, 0)
    if r > min(m, n, h):
        raise ValueError(f"rank is {r}; the smallest of inputs, outputs, hidden is {min(m, n, h)}")
    if m + h < n + r:
        return Coefficient(Fraction(h * m - h * r + n * r, 2), 1)
    if n + h < m + r:
        return Coefficient(Fraction(h * n - h * r + m * r, 2), 1)
    if m + n < h + r:
        return Coefficient(Fraction(m * n, 2), 1)
    eightfold = 2 * (h + r) * (m + n) + 2 * m * n - (h + r) ** 2 - m * m - n * n
    odd = (m + h + n + r) % 2
    return Coefficient(Fraction(eightfold + odd, 8), 1 + odd)


def normal_crossing(exponents: Sequence[int]) -> Coefficient:
    """Compute λ and its multiplicity at the origin for the loss ∏ wᵢ^{2kᵢ}.

        λ = min over kᵢ > 0 of 1/(2kᵢ),    m = how many i attain it.

    Watanabe 2009, "Algebraic Geometry and Statistical Learning Theory", section 2.4 (the poles
    of the zeta function of a normal crossing, with a prior that does not vanish).

    exponents: the kᵢ, whole numbers of at least 0; a zero is a direction the loss ignores.
    Returns: `Coefficient` in exact rationals.
    Raises: ValueError if an exponent is negative or fractional, or if none is positive.
    """
    ks = whole_numbers("exponents", exponents, 0)
    if not any(ks):
        raise ValueError(f"exponents are {ks}; at least one must be positive, or the loss is flat")
    return Coefficient(Fraction(1, 2 * max(ks)), ks.count(max(ks)))


def sum_of_powers(exponents: Sequence[float]) -> Coefficient:
    """Compute λ at the origin for the loss Σ |wᵢ|^{pᵢ}; the multiplicity is 1.

        λ = Σ 1/pᵢ,    since ∫ exp(−n Σ|wᵢ|^{pᵢ}) dw = ∏ 2Γ(1 + 1/pᵢ) n^{−1/pᵢ}.

    A Gamma integral per direction; for pᵢ = 2 it is the regular case λ = d/2 (Watanabe 2009).

    exponents: the pᵢ > 0, whole numbers, fractions or floats (a float at its binary value).
    Returns: `Coefficient` in exact rationals.
    Raises: ValueError if there is no exponent, or one is not a finite number above 0.
    """
    if len(exponents) == 0:
        raise ValueError("exponents are empty; give one power per direction")
    for i, p in enumerate(exponents):
        if not (math.isfinite(p) and p > 0):
            raise ValueError(f"exponents[{i}] is {p!r}; give a finite power above 0")
    return Coefficient(sum((1 / Fraction(p) for p in exponents), Fraction(0)), 1)
