"""Inputs have the law they claim; teachers have the ranks they claim, for every partial product."""

import itertools
import math

import numpy as np
import pytest
import torch

from llc.data import make_inputs, make_teacher
from llc.models.dln import product
from llc.theory import deep_linear

SIGMAS = 5  # false-fail 6e-7 a comparison


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_mean(values, expected, deviation):
    assert abs(float(values.mean()) - expected) < SIGMAS * deviation / math.sqrt(values.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_inputs(dtype):
    inputs = make_inputs("uniform", 50_000, 4, source(), dtype)
    assert (inputs.shape, inputs.dtype) == ((50_000, 4), dtype)
    assert inputs.abs().max() <= 10
    assert_mean(inputs.double(), 0, 10 / 3**0.5)
    # x²: mean 100/3, variance 10⁴(1/5 − 1/9).
    assert_mean(inputs.double().square(), 100 / 3, 100 * (1 / 5 - 1 / 9) ** 0.5)
    moment = inputs.double().T @ inputs.double() / 50_000
    off = moment - torch.diag(moment.diagonal())
    assert off.abs().max() < SIGMAS * 100 / 3 / math.sqrt(50_000)


def test_normal_inputs():
    inputs = make_inputs("normal", 50_000, 4, source(), torch.float64)
    assert inputs.shape == (50_000, 4)
    assert_mean(inputs, 0, 1)
    assert_mean(inputs.square(), 1, 2**0.5)
    assert_mean(inputs.pow(4), 3, 96**0.5)  # variance of x⁴: 105 − 9
    moment = inputs.T @ inputs / 50_000
    assert (moment - torch.diag(moment.diagonal())).abs().max() < SIGMAS / math.sqrt(50_000)


@pytest.mark.parametrize("dimension", [1, 2, 5, 30])
def test_unit_ball_inputs(dimension):
    n = 40_000
    inputs = make_inputs("unit_ball", n, dimension, source(), torch.float64)
    radii = inputs.norm(dim=1)
    assert radii.max() <= 1 + 1e-12
    assert_mean(radii.pow(dimension), 0.5, 12**-0.5)  # uniform on [0, 1]
    second = 1 / (dimension + 2)  # E x_i²
    fourth = 3 / ((dimension + 2) * (dimension + 4))
    for column in inputs.T:
        assert_mean(column, 0, second**0.5)
        assert_mean(column.square(), second, (fourth - second**2) ** 0.5)
    directions = inputs / radii.unsqueeze(1)
    moment = directions.T @ directions / n - torch.eye(dimension) / dimension
    assert moment.abs().max() < SIGMAS / math.sqrt(n)  # entries of one direction are below 1


METHODS = {
    "random": {},
    "zero": {},
    "rand_rank": {"prop_rank_reduce": 0.7},
    "rand_rank_sv": {"prop_rank_reduce": 0.7, "mean": 1.0, "std": 5.0},
    "aligned_rank": {"rank": 2},
}
WIDTHS = [(5, 3), (4, 6, 5), (6, 4, 3, 5, 7), (3, 9, 4, 8, 4, 9)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("method", METHODS)
def test_partial_ranks_are_those_of_the_products(method, widths, seed):
    teacher = make_teacher(method, widths, source(seed), torch.float64, **METHODS[method])
    layers = list(teacher.params.values())
    assert [tuple(layer.shape) for layer in layers] == [
        (b, a) for a, b in itertools.pairwise(widths)
    ]
    for i in range(len(layers)):
        partial = torch.eye(widths[i], dtype=torch.float64)
        scale = 1.0
        for j in range(i, len(layers)):
            partial = layers[j] @ partial
            scale *= float(torch.linalg.matrix_norm(layers[j], 2))
            # Rounding leaves 1e-15·scale where a singular value is zero.
            rank = int((torch.linalg.svdvals(partial) > 1e-12 * scale).sum())
            assert rank == teacher.partial_ranks[i, j + 1]
    assert teacher.rank == teacher.partial_ranks[0, -1]
    assert teacher.local_coefficient() >= float(teacher.coefficient().value)


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("widths", [(4, 6, 5), (6, 4, 3, 5, 7)])
def test_aligned_teachers_sit_at_the_most_singular_point(widths, rank):
    teacher = make_teacher("aligned_rank", widths, source(), torch.float64, rank=rank)
    assert teacher.rank == rank
    assert teacher.coefficient() == deep_linear(widths, rank)
    assert teacher.local_coefficient() == float(teacher.coefficient().value)
    for layer in teacher.params.values():
        values = torch.linalg.svdvals(layer)
        assert (values[rank:] < 1e-14).all()
        assert ((values[:rank] >= 1) & (values[:rank] <= 1.3)).all()
    total = torch.linalg.svdvals(product(teacher.params))[:rank]
    assert (total > 1 - 1e-12).all()


def test_rank_reduction_happens_as_often_as_asked_and_to_every_lower_rank():
    ranks = []
    for seed in range(2000):
        teacher = make_teacher("rand_rank", (4, 4), source(seed), prop_rank_reduce=0.6)
        ranks.append(teacher.rank)
    share = np.bincount(ranks, minlength=5) / 2000
    expected = np.array([0.15, 0.15, 0.15, 0.15, 0.4])
    assert (np.abs(share - expected) < SIGMAS * np.sqrt(expected * (1 - expected) / 2000)).all()
    assert make_teacher("rand_rank", (4, 4, 4), source(), prop_rank_reduce=0.0).rank == 4


def test_truncation_keeps_the_leading_singular_values():
    """Layers of `rand_rank` are the initialisation but for what was cut off."""
    whole = make_teacher("random", (6, 6), source(3), torch.float64)
    cut = make_teacher("rand_rank", (6, 6), source(3), torch.float64, prop_rank_reduce=1.0)
    before, after = (torch.linalg.svdvals(t.params["layer1"]) for t in (whole, cut))
    assert cut.rank < 6
    torch.testing.assert_close(after[: cut.rank], before[: cut.rank], rtol=1e-12, atol=0)


def test_rebuilt_layers_have_singular_values_of_the_mean_and_spread_asked_for():
    """N(μ, σ²), six σ from zero here: no sign is lost to the SVD."""
    mean, std, found = 3.0, 0.5, []
    for seed in range(400):
        options = {"prop_rank_reduce": 1.0, "mean": mean, "std": std}
        teacher = make_teacher("rand_rank_sv", (8, 9), source(seed), torch.float64, **options)
        found.append(torch.linalg.svdvals(teacher.params["layer1"])[: teacher.rank])
    values = torch.cat(found)
    assert len(values) > 1000
    assert_mean(values, mean, std)
    assert_mean((values - mean).square(), std**2, 2**0.5 * std**2)


@pytest.mark.parametrize("method", METHODS)
def test_one_seed_makes_one_teacher_in_any_dtype(method):
    one, same, single, other = (
        make_teacher(method, (4, 6, 5), source(seed), dtype, **METHODS[method])
        for seed, dtype in [
            (1, torch.float64),
            (1, torch.float64),
            (1, torch.float32),
            (2, torch.float64),
        ]
    )
    for name, leaf in one.params.items():
        assert torch.equal(leaf, same.params[name])
        assert torch.equal(leaf.float(), single.params[name])
        assert method == "zero" or not torch.equal(leaf, other.params[name])
    assert (one.partial_ranks == single.partial_ranks).all()
    draws = [make_inputs("uniform", 5, 2, source(seed), torch.float64) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
