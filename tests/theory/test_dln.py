"""Deep linear networks: the formulas against brute force over strata, and against each other."""

import itertools
import random
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llc.theory import (
    deep_linear,
    deep_linear_local,
    generic_partial_ranks,
    reduced_rank_regression,
)

from . import brute

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=200)


def width_vectors(layers, largest):
    return list(itertools.product(range(1, largest + 1), repeat=layers + 1))


@st.composite
def stratum(draw):
    """Line multiplicities of some parameter, hence a realisable rank pattern: 1–5 layers."""
    count = draw(st.integers(2, 6))
    m = np.zeros((count, count), dtype=int)
    for a in range(count):
        for b in range(a, count):
            m[a, b] = draw(st.integers(0, 2))
    lines = np.array([m[: s + 1, s:].sum() for s in range(count)])
    return m + np.diag(lines == 0)  # a boundary without any line would have width 0


def widths_of(m):
    return [int(width) for width in np.diag(brute.rank_table(m))]


@pytest.mark.parametrize("widths", [(2, 2), (2, 3, 2), (3, 1, 2), (2, 2, 2, 2), (1, 2, 2, 1, 2)])
def test_codimension_formula_is_that_of_the_tangent_space(widths):
    for m in brute.strata(widths):
        layers = brute.normal_form(m)
        assert [w.shape for w in layers] == list(itertools.pairwise(widths[::-1]))[::-1]
        assert brute.orbit_codimension(layers) == brute.codimension(m), m


@pytest.mark.parametrize(("layers", "largest"), [(1, 4), (2, 4), (3, 3)])
def test_aoyagi_is_half_the_least_codimension_and_counts_the_components(layers, largest):
    for widths in width_vectors(layers, largest):
        by_rank = {}
        for m in brute.strata(widths):
            by_rank.setdefault(int(m[0, -1]), []).append(brute.fibre_codimension(m))
        assert sorted(by_rank) == list(range(min(widths) + 1))
        for rank, codimensions in by_rank.items():
            least = min(codimensions)
            expected = (Fraction(least, 2), codimensions.count(least))
            assert deep_linear(widths, rank) == expected, (widths, rank)


def test_two_layers_are_reduced_rank_regression():
    for m, h, n in itertools.product(range(1, 13), repeat=3):
        for rank in range(min(m, h, n) + 1):
            assert deep_linear([m, h, n], rank) == reduced_rank_regression(m, n, h, rank)


@FIXED
@given(st.lists(st.integers(1, 60), min_size=2, max_size=8), st.randoms())
def test_rank_zero_does_not_see_the_order_of_the_widths(widths, rng):
    shuffled = rng.sample(widths, len(widths))
    assert deep_linear(shuffled, 0) == deep_linear(widths, 0)


@pytest.mark.parametrize(("layers", "largest"), [(1, 3), (2, 3), (3, 3)])
def test_local_is_half_the_least_codimension_among_strata_through_the_point(layers, largest):
    for widths in width_vectors(layers, largest):
        points = list(brute.strata(widths))
        tables = np.array([brute.rank_table(m) for m in points])
        codimensions = np.array([brute.fibre_codimension(m) for m in points])
        for table in tables:
            same_product = tables[:, 0, -1] == table[0, -1]
            closure_holds_point = (tables >= table).all(axis=(1, 2))
            least = codimensions[same_product & closure_holds_point].min()
            assert deep_linear_local(widths, table) == Fraction(int(least), 2), (widths, table)


@FIXED
@given(stratum())
def test_local_is_at_least_aoyagi(m):
    table = brute.rank_table(m)
    assert deep_linear_local(widths_of(m), table) >= deep_linear(widths_of(m), table[0, -1]).value


@FIXED
@given(stratum())
def test_local_is_at_most_half_the_codimension_of_its_own_stratum(m):
    own = Fraction(brute.fibre_codimension(m), 2)
    assert deep_linear_local(widths_of(m), brute.rank_table(m)) <= own


@FIXED
@given(stratum())
def test_transposing_the_network_changes_nothing(m):
    table = brute.rank_table(m)
    transposed = table.T[::-1, ::-1]
    assert deep_linear_local(widths_of(m)[::-1], transposed) == deep_linear_local(
        widths_of(m), table
    )


@FIXED
@given(st.lists(st.integers(1, 40), min_size=2, max_size=8), st.data())
def test_local_is_aoyagi_at_zero_at_aligned_and_at_full_rank_points(widths, data):
    layers = len(widths) - 1
    aligned = data.draw(st.integers(0, min(widths)))
    full = [min(pair) for pair in itertools.pairwise(widths)]
    for ranks in ([0] * layers, [aligned] * layers, full):
        value = deep_linear_local(widths, generic_partial_ranks(ranks))
        assert value == deep_linear(widths, min(ranks)).value


def test_two_layers_with_product_zero_have_a_closed_form():
    for d0, d1, d2 in itertools.product(range(1, 7), repeat=3):
        for rho1, rho2 in itertools.product(range(min(d0, d1) + 1), range(min(d1, d2) + 1)):
            rest = (d0 - rho1, d1 - rho1 - rho2, d2 - rho2)
            if rest[1] < 0:
                continue  # the second layer must kill the image of the first
            core = deep_linear(rest, 0).value if min(rest) else 0
            smooth = rho2 * (d0 - rho1) + rho1 * (d2 - rho2) + rho1 * rho2
            table = [[0, rho1, 0], [0, 0, rho2], [0, 0, 0]]
            assert deep_linear_local([d0, d1, d2], table) == Fraction(smooth, 2) + core


@pytest.mark.parametrize(
    ("widths", "ranks", "local", "aoyagi"),
    [
        # Values measured by HMC at n = 1e7: 8.00 ± 0.04 and 4.48 ± 0.02. One zero layer between
        # layers of full rank, the patterns of these widths that have these values.
        ((4, 4, 4, 4), (4, 0, 4), 8, Fraction(11, 2)),
        ((4, 4, 4, 4), (0, 4, 4), 8, Fraction(11, 2)),
        ((3, 4, 3, 4, 3), (3, 3, 0, 3), Fraction(9, 2), Fraction(7, 2)),
        ((3, 4, 3, 4, 3), (3, 0, 3, 3), Fraction(9, 2), Fraction(7, 2)),
    ],
)
def test_points_where_local_and_global_were_measured_to_differ(widths, ranks, local, aoyagi):
    assert deep_linear_local(widths, generic_partial_ranks(ranks)) == local
    assert deep_linear(widths, 0).value == aoyagi


def test_generic_partial_ranks_are_those_of_random_and_of_aligned_layers():
    widths, ranks = (5, 6, 4, 7, 5), (3, 4, 2, 5)
    rng = np.random.default_rng(0)
    shapes = list(zip(widths[1:], widths[:-1], ranks, strict=True))
    random_layers = [rng.normal(size=(o, r)) @ rng.normal(size=(r, i)) for o, i, r in shapes]
    aligned_layers = [np.diag(np.arange(max(o, i)) < r)[:o, :i] * 1.0 for o, i, r in shapes]
    table = generic_partial_ranks(ranks)
    for layers in (random_layers, aligned_layers):
        for i, j in itertools.combinations(range(5), 2):
            product = np.eye(widths[i])
            for w in layers[i:j]:
                product = w @ product
            assert np.linalg.matrix_rank(product) == table[i, j]


def test_ranks_may_be_nested_mappings_or_lists():
    table = generic_partial_ranks([2, 1, 3])
    mapping = {i: {j: int(table[i, j]) for j in range(i + 1, 4)} for i in range(3)}
    values = {deep_linear_local([3, 4, 3, 4], t) for t in (table, table.tolist(), mapping)}
    assert len(values) == 1


def test_forty_layers_of_width_three_thousand_take_under_a_second():
    rng = random.Random(0)
    widths = [3000] * 41
    for ranks in ([0] * 40, [rng.randint(1, 3000) for _ in range(40)], [3000] * 39 + [0]):
        start = time.process_time()
        value = deep_linear_local(widths, generic_partial_ranks(ranks))
        assert time.process_time() - start < 1
        assert isinstance(value, Fraction)
        assert value >= deep_linear(widths, min(ranks)).value


@pytest.mark.parametrize(
    ("widths", "rank", "message"),
    [
        ([3], 0, "widths"),
        ([], 0, "widths"),
        ([3, 0], 0, r"widths\[1\] is 0"),
        ([3, 2.5], 0, r"widths\[1\] is 2.5"),
        ([3, "4"], 0, r"widths\[1\] is '4'"),
        ([3, 2], 3, "rank is 3"),
        ([3, 2], -1, "rank is -1"),
    ],
)
def test_impossible_networks_are_refused(widths, rank, message):
    with pytest.raises(ValueError, match=message):
        deep_linear(widths, rank)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[0, 3, 0], [0, 0, 1], [0, 0, 0]], r"widths\[0\]"),  # above the width 2
        ([[0, 1, 2], [0, 0, 2], [0, 0, 0]], r"partial_ranks\[0\]\[1\]"),  # product above a factor
        ([[0, 2, 0], [0, 0, 2], [0, 0, 0]], r"widths\[1\]"),  # Sylvester: at least 2 + 2 − 3
        ([[0, 2], [0, 0]], r"partial_ranks\[0\]\[2\] is missing"),
        ({0: {1: 1, 2: 1}}, r"partial_ranks\[1\]\[2\] is missing"),
        ([[0, 1.0, 1], [0, 0, 1]], r"partial_ranks\[0\]\[1\] is 1.0"),
        ([[0, -1, 0], [0, 0, 1]], r"partial_ranks\[0\]\[1\] is -1"),
    ],
)
def test_ranks_of_no_parameter_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        deep_linear_local([2, 3, 2], table)


@pytest.mark.parametrize("ranks", [[], [2, -1], [1.5]])
def test_generic_ranks_must_be_ranks(ranks):
    with pytest.raises(ValueError, match="ranks"):
        generic_partial_ranks(ranks)
