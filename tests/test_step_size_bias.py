"""(ε/8)·E‖∇U_B‖² against the bias it stands for, on quadratic potentials without localisation."""

import math

import pytest
from oracles import (
    assert_vanishes,
    centred_tilts,
    normals,
    quadratic_loss,
    run_sgld,
)

from llc.config import SGLDConfig
from llc.diagnostics import excess
from llc.estimate import estimate_one
from llc.models.dln import LinearLoss
from llc.theory import quadratic, quadratic_sgld

SIGMAS = 5  # of 200 and more independent chains: false-fail 1e-6 a comparison


def biases(trace, nbeta, epsilon, exact, burn_in):
    """Chain by chain: λ̂ − exact, and (ε/8)·mean‖∇U_B‖²."""
    bias = excess(trace, nbeta)[:, burn_in:].mean(1) - exact
    return bias, epsilon / 8 * trace.squared_gradient[:, burn_in:].mean(1).numpy()


def test_step_size_bias_of_full_gradients_is_the_bias():
    h, nbeta, epsilon = [1.0, 0.5], 10.0, 0.1
    trace = run_sgld(
        quadratic_loss(h), nbeta=nbeta, gamma=0.0, epsilon=epsilon, chains=400,
        num_steps=1500, period=1,
    )  # fmt: skip
    bias, measured = biases(trace, nbeta, epsilon, quadratic(h, nbeta, 0.0), 300)
    assert_vanishes(bias - measured, SIGMAS)
    assert_vanishes(
        bias - quadratic_sgld(h, nbeta, 0.0, epsilon) + quadratic(h, nbeta, 0.0), SIGMAS
    )
    assert measured.mean() == pytest.approx(0.2, abs=0.1)  # a fifth of λ: something to measure


def test_step_size_bias_with_noise_free_targets_is_that_of_the_minibatch_trace():
    """One linear layer, quadratic in W: ⟨W, ∇U_B⟩ = 2(U_B − U_B*) on every batch."""
    widths, n, epsilon = (3, 2), 64, 0.05
    loss = LinearLoss(normals(n, 3), normals(2, 3, seed=1), widths)
    estimate = estimate_one(
        loss, {"layer1": normals(2, 3, seed=1)}, nbeta=10.0, companions=False,
        sgld_config=SGLDConfig(
            epsilon=epsilon, gamma=0.0, num_steps=3000, num_chains=200, batch_size=4,
            burn_in_prop=0.5,
        ),
    )  # fmt: skip
    trace = estimate.trace
    bias = excess(trace, 10.0)[:, 1500:].mean(1) - 3.0  # λ = 6/2
    measured = epsilon / 8 * trace.squared_gradient[:, 75:].mean(1).numpy()
    assert estimate.step_size_bias == pytest.approx(measured.mean(), rel=1e-6)
    assert_vanishes(bias - measured, SIGMAS)
    assert measured.mean() > 20 * (bias - measured).std() / math.sqrt(200)


@pytest.mark.parametrize("num_examples", [200, 5000])
def test_step_size_bias_with_noisy_targets_is_that_of_both_traces_together(num_examples):
    """Batches without replacement: the minibatch trace is biased by more, the full one by less.

    Stationarity gives E⟨w, ∇U_B⟩ = d + (ε/4)E‖∇U_B‖² whatever the batches. With g = ∇U_B(w*) it
    says bias(minibatch) + bias(all data) = 2·(ε/8)E‖∇U_B‖². They differ by E⟨g, w⟩, which is zero
    only where batches are independent of their predecessors.
    """
    nbeta, epsilon, chains = 10.0, 0.02, 200
    loss = quadratic_loss([1.0], tilts=centred_tilts(num_examples, 1, 6.0))
    gaps = []
    for full_data in (False, True):
        trace = run_sgld(
            loss, nbeta=nbeta, gamma=0.0, epsilon=epsilon, chains=chains, num_steps=3000,
            batch_size=10, period=1, full_data_trace=full_data,
        )  # fmt: skip
        bias, measured = biases(trace, nbeta, epsilon, 0.5, 1000)  # two and more whole epochs
        gaps.append(bias - measured)
    assert_vanishes(gaps[0] + gaps[1], SIGMAS)
    if num_examples == 200:
        assert gaps[0].mean() > 0.2 * measured.mean()
