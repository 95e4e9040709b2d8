"""Closed forms: values worked out by hand, symmetries, and the volume of small loss."""

from fractions import Fraction
from math import inf, nan

import numpy as np
import pytest

from llc.theory import normal_crossing, reduced_rank_regression, sum_of_powers


@pytest.mark.parametrize(
    ("inputs", "outputs", "hidden", "rank", "expected"),
    [
        (1, 1, 1, 0, (Fraction(1, 2), 2)),  # (ab)²: a normal crossing
        (1, 1, 1, 1, (Fraction(1, 2), 1)),  # ab = 1: a smooth curve in the plane
        (2, 2, 2, 0, (Fraction(3, 2), 1)),
        (2, 2, 2, 1, (Fraction(2), 2)),
        (2, 2, 2, 2, (Fraction(2), 1)),
        (2, 9, 3, 1, (Fraction(6 - 3 + 9, 2), 1)),  # few inputs: M+H < N+r
        (9, 2, 3, 1, (Fraction(6 - 3 + 9, 2), 1)),  # few outputs: N+H < M+r
        (2, 3, 9, 1, (Fraction(3), 1)),  # many hidden units: MN/2
    ],
)
def test_reduced_rank_regression_in_each_case(inputs, outputs, hidden, rank, expected):
    assert reduced_rank_regression(inputs, outputs, hidden, rank) == expected


def test_reduced_rank_regression_at_full_rank_is_regular():
    # At r = H the fibre is a manifold of codimension H(M+N) − H², the rank's own codimension.
    for m in range(1, 9):
        for n in range(1, 9):
            for h in range(1, min(m, n) + 1):
                expected = (Fraction(h * (m + n) - h * h, 2), 1)
                assert reduced_rank_regression(m, n, h, h) == expected


def test_reduced_rank_regression_is_symmetric_and_at_most_regular():
    for m, n, h in np.ndindex(8, 8, 8):
        for r in range(min(m, n, h) + 2):
            value = reduced_rank_regression(m + 1, n + 1, h + 1, r)
            assert value == reduced_rank_regression(n + 1, m + 1, h + 1, r)
            assert value.value <= Fraction(min((m + 1) * (n + 1), (h + 1) * (m + n + 2)), 2)


@pytest.mark.parametrize(
    ("exponents", "expected"),
    [
        ([1], (Fraction(1, 2), 1)),
        ([1, 1], (Fraction(1, 2), 2)),
        ([2, 1, 2, 0], (Fraction(1, 4), 2)),
        ([0, 3], (Fraction(1, 6), 1)),
        (np.array([1, 1, 1]), (Fraction(1, 2), 3)),
    ],
)
def test_normal_crossing(exponents, expected):
    assert normal_crossing(exponents) == expected


def test_normal_crossing_is_the_volume_of_small_loss():
    # On [0,1]² the volume of {(w₁w₂)^{2k} < t} is s(1 − log s), s = t^{1/2k} = t^λ: a logarithm
    # to the power m − 1. With unequal exponents it is (k₁s₁ − k₂s₂)/(k₁ − k₂), sᵢ = t^{1/2kᵢ}.
    t = 1e-40
    equal, unequal = normal_crossing([2, 2]), normal_crossing([2, 1])
    s = t ** float(equal.value)
    u = (1 - np.log(s)) * s
    assert (equal.multiplicity, unequal.multiplicity) == (2, 1)
    log_power = np.log(u / t ** float(equal.value)) / np.log(-np.log(t))
    assert 0.5 < log_power < 1  # tends to m − 1 = 1 from below, slowly
    v = 2 * t**0.25 - t**0.5
    assert v / t ** float(unequal.value) == pytest.approx(2, rel=t**0.25)


@pytest.mark.parametrize(
    ("exponents", "expected"),
    [
        ([2], Fraction(1, 2)),
        ([2, 2, 2], Fraction(3, 2)),
        ([2, 4, 6], Fraction(11, 12)),
        ([0.5, 1], Fraction(3)),
        ([Fraction(2, 3)], Fraction(3, 2)),
    ],
)
def test_sum_of_powers(exponents, expected):
    value, multiplicity = sum_of_powers(exponents)
    assert (value, multiplicity) == (expected, 1)
    assert isinstance(value, Fraction)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 1, 1, 0), "inputs is 0"),
        ((1, 2.5, 1, 0), "outputs is 2.5"),
        ((1, 1, "2", 0), "hidden is '2'"),
        ((1, 1, 1, -1), "rank is -1"),
        ((3, 4, 2, 3), "rank is 3"),
    ],
)
def test_impossible_regressions_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        reduced_rank_regression(*sizes)


@pytest.mark.parametrize("exponents", [[], [0, 0], [-1, 2], [1.5]])
def test_impossible_crossings_are_refused(exponents):
    with pytest.raises(ValueError, match="exponents"):
        normal_crossing(exponents)


@pytest.mark.parametrize("exponents", [[], [0], [2, -2], [nan], [inf]])
def test_impossible_powers_are_refused(exponents):
    with pytest.raises(ValueError, match="exponents"):
        sum_of_powers(exponents)
