"""Functional rank and Hessian trace against exact values."""

import math

import pytest
import torch
from oracles import normals
from torch.func import functional_call

from llc.data import make_teacher
from llc.geometry import functional_rank, hessian_trace
from llc.models import dln, mlp

# Forward-mode differentiation scripts its decompositions on first use, and torch deprecates that.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is:DeprecationWarning")


@pytest.mark.parametrize(
    "widths", [(4, 3), (5, 2, 6), (6, 7, 5), (4, 3, 5, 2, 6), (3, 8, 8, 3), (7, 1, 7), (1, 5, 1)]
)
def test_functional_rank_of_generic_linear_networks(widths):
    """Dimension of the matrices of rank ≤ r, r the least width: r(d₀ + d_L − r)."""
    network = dln.init(widths, torch.Generator().manual_seed(0), torch.float32)
    inputs = normals(widths[0] + 4, widths[0])
    result = functional_rank(dln.apply, network, inputs, threshold=1e-9)
    r = min(widths)
    expected = r * (widths[0] + widths[-1] - r)
    assert result.matrix_rank == result.functional_rank == expected
    assert result.singular_values.dtype == torch.float64
    assert bool((result.singular_values.diff() <= 0).all())


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_functional_rank_at_aligned_points(rank):
    """Two aligned layers of rank r: U ⊗ ℝ^{d₀} + ℝ^{d₂} ⊗ V has dimension r(d₀ + d₂ − r)."""
    teacher = make_teacher(
        "aligned_rank", (5, 4, 6), torch.Generator().manual_seed(0), torch.float64, rank=rank
    )
    result = functional_rank(dln.apply, teacher.params, normals(20, 5))
    assert result.matrix_rank == result.functional_rank == rank * (5 + 6 - rank)


def test_few_inputs_bound_the_rank():
    network = dln.init((5, 5, 4), torch.Generator().manual_seed(0), torch.float64)
    assert functional_rank(dln.apply, network, normals(2, 5)).matrix_rank == 2 * 4


def test_singular_values_and_threshold_are_those_of_the_jacobian():
    network = mlp.init((2, 4, 3), torch.Generator().manual_seed(1), torch.float64)
    inputs = normals(6, 2)
    flat = torch.cat([leaf.flatten() for leaf in network.values()])

    def outputs(vector):
        parts = vector.split([leaf.numel() for leaf in network.values()])
        pairs = zip(network.items(), parts, strict=True)
        return mlp.apply({n: part.view_as(leaf) for (n, leaf), part in pairs}, inputs).flatten()

    expected = torch.linalg.svdvals(torch.autograd.functional.jacobian(outputs, flat))
    threshold = float(expected[3] + expected[4]) / 2
    result = functional_rank(mlp.apply, network, inputs, threshold)
    torch.testing.assert_close(result.singular_values, expected, rtol=1e-10, atol=1e-12)
    assert (result.functional_rank, result.threshold) == (4, threshold)


def some_network(model, widths):
    network = model.init(widths, torch.Generator().manual_seed(2), torch.float64)
    return network, normals(30, widths[0], seed=3), normals(30, widths[-1], seed=4)


def exact_hessian(model, network, inputs, targets):
    """Over all parameters at once, by torch.func.hessian."""

    def loss(params):
        return (model.apply(params, inputs) - targets).square().mean()

    blocks = torch.func.hessian(loss)(network)
    sizes = {name: leaf.numel() for name, leaf in network.items()}
    rows = [
        torch.cat([blocks[a][b].reshape(sizes[a], sizes[b]) for b in sizes], dim=1) for a in sizes
    ]
    return torch.cat(rows)


@pytest.mark.parametrize(("model", "widths"), [(dln, (4, 3, 5)), (mlp, (3, 6, 4, 2))])
@pytest.mark.parametrize("chunk", [1, 7, 400])
def test_hessian_trace(model, widths, chunk):
    network, inputs, targets = some_network(model, widths)
    hessian = exact_hessian(model, network, inputs, targets)
    probes = 400
    estimate = hessian_trace(
        model.apply, network, inputs, targets, torch.Generator().manual_seed(5), probes, chunk
    )
    # Rademacher probes: variance 2 Σ_{i≠j} H_ij². Five errors: false-fail 6e-7.
    error = math.sqrt(2 * (hessian.square().sum() - hessian.diagonal().square().sum()) / probes)
    assert abs(estimate.mean - hessian.trace()) < 5 * error
    # The sample deviation of 400 probes of kurtosis below 9 is within 5·√(8/400)/2 = 35 %.
    assert estimate.standard_error == pytest.approx(error, rel=0.35)


def test_one_linear_layer_and_one_input_coordinate_have_no_error():
    """Diagonal Hessian: vᵀHv is the trace for every Rademacher probe, 2·mean(x²)."""
    inputs = normals(9, 1)
    network = {"layer1": normals(3, 1).float()}
    estimate = hessian_trace(
        dln.apply, network, inputs, normals(9, 3), torch.Generator().manual_seed(0), probes=5
    )
    assert estimate.mean == pytest.approx(float(2 * inputs.square().mean()), rel=1e-12)
    assert estimate.standard_error == pytest.approx(0, abs=1e-12)


def test_any_module_may_be_measured():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    params = {name: leaf.detach() for name, leaf in module.named_parameters()}

    def apply(weights, inputs):
        return functional_call(module, weights, (inputs,))

    assert functional_rank(apply, params, normals(40, 2)).matrix_rank == 3 * 3 + 3 + 1
    source = torch.Generator().manual_seed(0)
    assert math.isfinite(hessian_trace(apply, params, normals(4, 2), normals(4, 1), source).mean)
