"""λ̂ of modules whose λ, or expectation at finite n, is known, through the public API alone.

Chains are independent by construction, so that the standard error of their mean is honest; five of
them, with a normal mean, are missed once in two million runs.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles import chain_mean_and_error
from torch import nn
from torch.nn.functional import cross_entropy

from llc import estimate_llc, theory
from llc.config import SamplerConfig, SGLDConfig
from llc.data.linear import make_teacher
from llc.estimate import estimate_one
from llc.models import dln
from llc.models.dln import LinearLoss
from llc.params import stack

SIGMAS = 5
MANY = {"num_chains": 100, "engine": "vmap", "companions": False, "progress": False}


class Crossing(nn.Module):
    """x ↦ x·w^k = x·∏ wᵢ^{kᵢ} of every row of `w`: with answers 0 and x = 1, L = Σ_rows w^{2k}."""

    def __init__(self, exponents, w):
        super().__init__()
        self.register_buffer("exponents", torch.tensor(exponents))
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, inputs):
        return inputs * self.w.pow(self.exponents).prod(-1)


def squared(outputs, targets):
    return (outputs - targets).square().sum(-1)


def ones(count=2):
    return torch.ones(count, 1, dtype=torch.float64), torch.zeros(count, 1, dtype=torch.float64)


@pytest.mark.parametrize("exponents", [(1, 1), (1, 2), (2, 2), (1, 3)])
def test_normal_crossings_agree_with_quadrature(exponents):
    nbeta, gamma = 100.0, 4.0
    result = estimate_llc(
        Crossing(exponents, [[0.0, 0.0]]), ones(), squared, nbeta=nbeta, gamma=gamma,
        sampler="mala", epsilon=0.05, num_draws=700, burn_in=200, **MANY,
    )  # fmt: skip
    exact = theory.quadrature(
        lambda w: (w ** (2 * np.array(exponents))).prod(-1), nbeta, gamma, dimension=2
    )
    mean, error = chain_mean_and_error(result.per_chain)
    assert error < 0.1 * exact
    assert abs(mean - exact) < SIGMAS * error


LINEAR = {
    "even": (3, 2, 2),
    "odd": (2, 2, 2),
    "few inputs": (1, 2, 4),
    "few outputs": (4, 2, 1),
    "many hidden": (1, 4, 1),
    "deep": (2, 3, 2, 2),
}
RANKS = {"even": 1, "odd": 1, "few inputs": 0, "few outputs": 0, "many hidden": 0, "deep": 1}


@pytest.mark.parametrize("which", list(LINEAR))
def test_linear_networks_of_every_case(which):
    """The four cases of reduced-rank regression (the first twice), and a deeper network.

    With the multiplicity m, λ̂ → λ as nβ grows, up to (m − 1)/log nβ and powers of 1/nβ; Gibbs
    sampling of the hand-written loss says what is right at this very nβ.
    """
    widths, rank = LINEAR[which], RANKS[which]
    teacher = make_teacher(
        "aligned_rank", widths, torch.Generator().manual_seed(1), torch.float64, rank=rank
    )
    inputs = widths[0] ** 0.5 * torch.eye(widths[0], dtype=torch.float64).repeat(2, 1)
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
    model = nn.Sequential(*layers).double()
    for layer, leaf in zip(layers, teacher.params.values(), strict=True):
        layer.weight.data.copy_(leaf)
    nbeta, gamma = 100.0 * widths[-1], 1.0
    result = estimate_llc(
        model, (inputs, model(inputs).detach()), lambda out, y: (out - y).square().mean(-1),
        nbeta=nbeta, gamma=gamma, sampler="mala", epsilon=0.005, num_draws=4000, burn_in=1500,
        **MANY,
    )  # fmt: skip
    loss = LinearLoss(inputs, dln.product(stack([teacher.params])), widths)
    by_gibbs = estimate_one(
        loss,
        teacher.params,
        nbeta=nbeta,
        sgld_config=SGLDConfig(epsilon="auto", gamma=gamma, num_chains=100, batch_size=len(inputs)),
        sampler_config=SamplerConfig("gibbs", num_steps=400, burn_in_prop=0.25),
        companions=False,
    )
    mean, error = chain_mean_and_error(result.per_chain)
    exact, exact_error = chain_mean_and_error(by_gibbs.per_chain)
    assert abs(mean - exact) < SIGMAS * np.hypot(error, exact_error)
    known = theory.deep_linear(widths, rank)
    slack = (known.multiplicity - 1) / np.log(nbeta) + 0.05 * float(known.value)
    assert abs(mean - float(known.value)) < slack + SIGMAS * error


def regression(count=400):
    """Logistic regression on four features at its maximum of likelihood, by Newton's method."""
    source = torch.Generator().manual_seed(4)
    inputs = torch.randn(count, 4, generator=source, dtype=torch.float64)
    chances = (inputs @ torch.tensor([1.0, -0.5, 0.0, 0.5], dtype=torch.float64)).sigmoid()
    labels = (torch.rand(count, generator=source, dtype=torch.float64) < chances).double()
    w = torch.zeros(4, dtype=torch.float64)
    for _ in range(20):
        p = (inputs @ w).sigmoid()
        hessian = inputs.T @ (inputs * (p * (1 - p))[:, None])
        w = w - torch.linalg.solve(hessian, inputs.T @ (p - labels))
    model = nn.Linear(4, 1, bias=False).double()
    model.weight.data.copy_(w)
    return model, inputs, labels, hessian / count


def bernoulli(outputs, labels):
    return nn.functional.binary_cross_entropy_with_logits(
        outputs.squeeze(-1), labels, reduction="none"
    )


def exact_regression(model, inputs, labels, hessian, nbeta, gamma, draws=100_000):
    """E[nβ(L − L*)], by importance sampling from Laplace's approximation; its standard error."""
    w = model.weight.detach().squeeze(0)
    precision = nbeta * hessian + gamma * torch.eye(4, dtype=torch.float64)
    white = torch.randn(draws, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    moves = white @ torch.linalg.inv(torch.linalg.cholesky(precision))

    def mean_loss(points):  # −log p(y | x) = softplus(−s) with s = ±⟨x, w⟩
        signs = (2 * labels - 1).unsqueeze(-1)
        return nn.functional.softplus(-signs * (inputs @ points.T)).mean(0)

    centre = mean_loss(w.unsqueeze(0))
    energies = nbeta * torch.cat([mean_loss(w + part) - centre for part in moves.split(5000)])
    weights = (-energies - gamma / 2 * moves.square().sum(1) + white.square().sum(1) / 2).exp()
    mean = (weights * energies).sum() / weights.sum()
    error = (weights * (energies - mean)).square().sum().sqrt() / weights.sum()
    return float(mean), float(error)


def test_a_regular_model_has_half_its_parameters():
    model, inputs, labels, hessian = regression()
    nbeta, gamma = 400 / np.log(400), 1.0
    exact, exact_error = exact_regression(model, inputs, labels, hessian, nbeta, gamma)
    half = theory.quadratic(torch.linalg.eigvalsh(hessian).numpy(), nbeta, gamma)
    assert abs(exact - half) < 0.1 * half  # what is left of d/2 = 2 by γ, up to O(1/nβ)
    result = estimate_llc(
        model, (inputs, labels), bernoulli, gamma=gamma, sampler="mala", epsilon=0.1, num_draws=400,
        burn_in=50, batch_size=400,
        **MANY,
    )  # fmt: skip
    assert result.nbeta == pytest.approx(nbeta)
    mean, error = chain_mean_and_error(result.per_chain)
    assert error < 0.03 * exact
    assert abs(mean - exact) < SIGMAS * np.hypot(error, exact_error)


def test_minibatch_sgld_as_it_comes():
    """ε is found, and minibatches cost no more than the bias that is reported."""
    model, inputs, labels, hessian = regression()
    classifier = nn.Linear(4, 2, bias=False).double()
    classifier.weight.data.copy_(torch.stack([torch.zeros(4), model.weight.detach().squeeze(0)]))
    result = estimate_llc(
        classifier, (inputs, labels.long()), num_chains=10, num_draws=4000, burn_in=1000,
        params={"weight": 1}, engine="vmap", progress=False,
    )  # fmt: skip
    exact, _ = exact_regression(model, inputs, labels, hessian, result.nbeta, result.gamma)
    assert result.calibration
    assert result.step_size_bias < 0.02 * exact
    assert result.standard_error < 0.06 * exact
    gap = abs(result.mean - exact)
    assert gap < SIGMAS * result.standard_error + result.step_size_bias
    assert cross_entropy(classifier(inputs), labels.long()).item() == pytest.approx(
        result.init_loss
    )


def test_two_points_of_one_loss_rank_as_their_singularities():
    """L = Σ vᵢ²wᵢ⁴ over eight pairs: λ = 8/4 at zero, 8/2 where w = 1; every chain is a seed."""
    at_zero, at_one = (
        estimate_llc(
            Crossing((1, 2), [[0.0, w]] * 8), ones(), squared, nbeta=100.0, gamma=16.0,
            sampler="mala", epsilon=0.005, num_draws=1000, burn_in=300, **MANY,
        )
        for w in (0.0, 1.0)
    )  # fmt: skip
    ranked = np.less(at_zero.per_chain, at_one.per_chain)
    assert len(ranked) == 100
    assert ranked.sum() >= 99
