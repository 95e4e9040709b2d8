"""SGHMC: its equation, the exact law of its recursion, and the bias that its velocity tells."""

import math

import numpy as np
import pytest
import torch
from ladder import FALSE_FAIL, GAMMA, MANY, NBETA, run
from oracles import assert_vanishes, centred_tilts, dkw_bound, normals, quadratic_loss
from scipy import stats
from scipy.linalg import solve_discrete_lyapunov
from stochastic import NBETA as NETWORK_NBETA
from stochastic import assert_like_optimiser, assert_replay, problem
from stochastic import run as run_network

from llc.diagnostics import excess
from llc.samplers.sghmc import State, sghmc
from llc.samplers.sgld import sgld
from llc.theory import quadratic

EPSILON = 0.02


def build(friction, epsilon=EPSILON, **options):
    return lambda part: sghmc(part, epsilon, friction=friction, **options)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("friction", [0.1, 0.6, 1.0])
def test_steps_are_the_formula_with_the_noise_and_the_batches_replayed(friction, gamma):
    centre = problem(gamma)[0].centre.leaves
    centre = torch.cat([leaf[0].flatten() for leaf in centre.values()])

    def step(velocity, w, xi, gradient):
        slope = NETWORK_NBETA * gradient(w) + gamma * (w - centre)
        move = -EPSILON / 2 * slope + math.sqrt(EPSILON) * xi
        velocity = friction * move + (0 if velocity is None else (1 - friction) * velocity)
        return velocity, w + velocity

    assert_replay(build(friction), step, gamma=gamma)


def test_without_noise_it_is_heavy_ball_descent():
    friction = 0.3
    rate = friction * EPSILON / 2 * NETWORK_NBETA

    def make(parameters):
        return torch.optim.SGD(parameters, lr=rate, momentum=1 - friction)

    assert_like_optimiser(build(friction), make)


def test_with_friction_one_it_is_sgld():
    posterior, _ = problem()
    makes = build(1.0, check_period=2), lambda part: sgld(part, EPSILON, 2)
    one, other = (run_network(posterior, make) for make in makes)
    for name in ("loss", "squared_gradient", "step_size"):
        left, right = getattr(one, name), getattr(other, name)
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("friction", [0.0, -0.1, 1.1])
def test_an_impossible_friction_is_refused(friction):
    with pytest.raises(ValueError, match=r"friction=.*must be above 0 and at most 1"):
        sghmc(problem()[0], EPSILON, friction=friction)


def joint_law(precision, epsilon, friction):
    """Covariance of (w, v) that the recursion keeps."""
    pull, keep = friction * epsilon / 2 * precision, 1 - friction
    step = np.array([[1 - pull, keep], [-pull, keep]])
    return solve_discrete_lyapunov(step, friction**2 * epsilon * np.ones((2, 2)))


@pytest.mark.parametrize("friction", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("share", [0.01, 0.5, 3.5])
def test_the_docstrings_law_is_that_of_the_recursion(friction, share):
    covariance = joint_law(11.0, share / 11, friction)
    inflation = 1 / (1 - friction * share / (4 * (2 - friction)))
    assert covariance[0, 0] == pytest.approx(inflation / 11, rel=1e-9)
    kinetic = friction * share / 11 / (2 - friction)
    assert covariance[1, 1] == pytest.approx(kinetic * inflation, rel=1e-9)


def from_law(make, covariances):
    """The sampler, begun with w and v from exact draws of their joint law, an axis each."""
    roots = torch.stack([torch.linalg.cholesky(torch.from_numpy(c)) for c in covariances])
    draws = torch.einsum("aij,naj->ani", roots, normals(MANY, len(roots), 2, seed=8))
    start, velocity = draws[..., 0].T, draws[..., 1].T

    def made(part):
        sampler = make(part)
        return sampler._replace(
            init=lambda position: State(position, velocity.reshape(-1).clone(), 0)
        )

    return made, start.contiguous()


CURVATURES = [1.0, 0.1, 0.0]


@pytest.mark.parametrize(("friction", "epsilon"), [(0.1, 0.05), (0.1, 4.0), (0.7, 0.5)])
def test_the_discretised_law_is_invariant(friction, epsilon):
    precisions = [NBETA * h + GAMMA for h in CURVATURES]
    laws = [joint_law(a, epsilon, friction) for a in precisions]
    made, start = from_law(build(friction, epsilon), laws)
    last = run(made, quadratic_loss(CURVATURES), steps=60, start=start).last["w"]
    assert (last - start).square().mean() > 0.1 * start.square().mean()
    for column, law in enumerate(laws):
        cdf = stats.norm(scale=math.sqrt(law[0, 0])).cdf
        distance = stats.kstest(last[:, column].numpy(), cdf).statistic
        assert distance < dkw_bound(MANY, FALSE_FAIL)


def test_the_bias_of_a_large_step_is_seen():
    """εa = 44 of a stable 76: the variance is 2.4 times the posterior's."""
    law = joint_law(11.0, 4.0, 0.1)
    made, start = from_law(build(0.1, 4.0), [law])
    last = run(made, quadratic_loss([1.0]), steps=60, start=start).last["w"][:, 0].numpy()
    exact = stats.norm(scale=math.sqrt(1 / 11)).cdf
    assert stats.kstest(last, exact).statistic > dkw_bound(MANY, FALSE_FAIL)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.parametrize("friction", [0.2, 0.7, 1.0])
def test_the_velocity_tells_the_step_size_bias(friction, gamma):
    """(ε/8)·E[check] is ½(E⟨w, ∇U⟩ − d), chain by chain within five errors; λ̂'s bias at γ = 0."""
    h, epsilon = [1.0, 0.5], 0.15 / friction
    trace = run(
        build(friction, epsilon, check_period=1), quadratic_loss(h), steps=1500, chains=400,
        gamma=gamma, distances=True,
    )  # fmt: skip
    virial = 2 * excess(trace, NBETA) + gamma * trace.distance.double().numpy() ** 2
    bias = 0.5 * (virial[:, 300:].mean(1) - 2)
    measured = epsilon / 8 * trace.squared_gradient[:, 300:].mean(1).numpy()
    assert_vanishes(bias - measured, 5)
    exact = 0.5 * sum(
        1 / (1 - friction * epsilon * (NBETA * c + gamma) / 4 / (2 - friction)) - 1 for c in h
    )
    assert_vanishes(measured - exact, 5)
    assert exact > 20 * measured.std() / 20  # something to measure
    assert trace.acceptance.isnan().all()
    if gamma == 0:
        assert_vanishes(
            excess(trace, NBETA)[:, 300:].mean(1) - quadratic(h, NBETA, 0.0) - measured, 5
        )


def test_the_velocity_tells_what_minibatch_noise_adds():
    """Batches almost independent (5,000 examples, 10 at a time): full-data λ̂, γ = 0."""
    loss = quadratic_loss([1.0], tilts=centred_tilts(5000, 1, 6.0))
    trace = run(
        build(0.3, 0.05, check_period=1), loss, steps=2000, chains=200, gamma=0.0, batch_size=10,
        full_data_trace=True,
    )  # fmt: skip
    bias = excess(trace, NBETA)[:, 300:].mean(1) - 0.5
    measured = 0.05 / 8 * trace.squared_gradient[:, 300:].mean(1).numpy()
    assert measured.mean() > 0.05
    assert_vanishes(bias - measured, 5)
