"""Preconditioned SGLD: its equation, Adam without noise, and the law of its recursion."""

import math

import numpy as np
import pytest
import torch
from ladder import FALSE_FAIL, GAMMA, MANY, NBETA, run, skewed
from oracles import (
    VectorLoss,
    assert_vanishes,
    centred_tilts,
    chain_mean_and_error,
    dkw_bound,
    normals,
    quadratic_loss,
)
from scipy import stats
from scipy.linalg import solve_discrete_lyapunov
from stochastic import CHAINS, N, assert_like_optimiser, assert_replay, problem, vector
from stochastic import NBETA as NETWORK_NBETA
from stochastic import run as run_network

from llc.diagnostics import excess
from llc.params import unstack
from llc.samplers.base import Block
from llc.samplers.preconditioners import DiagonalHessian
from llc.samplers.psgld import State, psgld, scaled_sgld
from llc.samplers.sgld import sgld

EPSILON = 0.02


def learnt(epsilon=EPSILON, **options):
    return lambda part: psgld(part, epsilon, **options)


def given(factors, epsilon=EPSILON, **options):
    return lambda part: scaled_sgld(part, epsilon, factors, **options)


def network_factors():
    posterior, _ = problem()
    source = torch.Generator().manual_seed(4)
    return {
        name: 0.5 + torch.rand(shape, generator=source, dtype=torch.float64)
        for name, shape in posterior.layout.shapes.items()
    }


def network_centre(gamma):
    return vector(unstack(problem(gamma)[0].centre.leaves, 0))


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("warm_up", [0, 3])
def test_steps_are_the_formula_with_the_noise_and_the_batches_replayed(warm_up, momentum, gamma):
    centre, decay, stability = network_centre(gamma), 0.7, 0.05

    def step(memory, w, xi, gradient):
        mean, square, old, time = memory or (0.0, 0.0, None, 1)
        g = gradient(w)
        mean = momentum * mean + (1 - momentum) * g
        square = decay * square + (1 - decay) * g * g
        metric = 1 / (stability + (square / (1 - decay**time)).sqrt())
        if warm_up and time > warm_up:
            metric = old
        drift = NETWORK_NBETA * mean / (1 - momentum**time) + gamma * (w - centre)
        w = w - EPSILON / 2 * metric * drift + (EPSILON * metric).sqrt() * xi
        return (mean, square, metric, time + 1), w

    options = {"decay": decay, "momentum": momentum, "stability": stability, "warm_up": warm_up}
    assert_replay(learnt(**options), step, gamma=gamma)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_given_factors_are_the_preconditioner(momentum):
    factors, gamma = network_factors(), 2.0
    centre, metric = network_centre(gamma), vector(factors)

    def step(memory, w, xi, gradient):
        mean, time = memory or (0.0, 1)
        mean = momentum * mean + (1 - momentum) * gradient(w)
        drift = NETWORK_NBETA * mean / (1 - momentum**time) + gamma * (w - centre)
        return (mean, time + 1), w - EPSILON / 2 * metric * drift + (EPSILON * metric).sqrt() * xi

    assert_replay(given(factors, momentum=momentum), step, gamma=gamma)


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.9), (0.9, 0.999)])
def test_without_noise_it_is_adam(momentum, decay):
    """γ = 0: the optimiser's moments would have the localisation's gradient in them."""

    def make(parameters):
        rate = EPSILON / 2 * NETWORK_NBETA
        return torch.optim.Adam(parameters, lr=rate, betas=(momentum, decay), eps=0.03)

    build = learnt(momentum=momentum, decay=decay, stability=0.03)
    assert_like_optimiser(build, make, gamma=0.0)


def test_factors_of_one_are_sgld():
    posterior, _ = problem()
    ones = dict.fromkeys(posterior.layout.shapes, 1.0)
    one, other = (
        run_network(posterior, make)
        for make in (
            given(ones, check_period=2), lambda part: sgld(part, EPSILON, 2)
        )
    )  # fmt: skip
    for name in ("loss", "acceptance", "squared_gradient", "energy"):
        left, right = getattr(one, name), getattr(other, name)
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-10)


def test_the_localisation_leaves_the_moments_alone():
    """Chains that feel nothing but γ keep V = 0 and G = 1/a: SGLD with the step ε/a."""
    flat = VectorLoss(2, lambda w: 0 * w.sum(-1), lambda w: 0 * w)
    start = normals(5, 2)
    make = learnt(0.01, stability=0.5, momentum=0.9)
    one = run(make, flat, steps=30, chains=5, start=start).last["w"]
    other = run(lambda p: sgld(p, 0.02), flat, steps=30, chains=5, start=start).last["w"]
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (learnt(decay=1.0), "decay=1.0: must be at least 0 and below 1"),
        (learnt(momentum=-0.1), "momentum=-0.1: must be"),
        (learnt(stability=0.0), "stability=0.0: must be > 0"),
        (given({"w": 1.0}), "give one for each of"),
    ],
)
def test_impossible_options_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make(problem()[0])


def test_factors_must_be_positive():
    with pytest.raises(ValueError, match="must be > 0"):
        given(dict.fromkeys(network_factors(), 0.0))(problem()[0])


CURVATURES, METRIC = [1.0, 0.1, 0.0], torch.tensor([0.5, 3.0, 8.0], dtype=torch.float64)


def joint_law(h, metric, epsilon, momentum):
    """Covariance of (w, m) that the recursion keeps, long after its start."""
    slope = np.array([NBETA * (1 - momentum) * h + GAMMA, NBETA * momentum])
    step = np.array([[1.0, 0.0], [(1 - momentum) * h, momentum]])
    step[0] -= epsilon / 2 * metric * slope
    return solve_discrete_lyapunov(step, np.diag([epsilon * metric, 0.0]))


def from_law(make, epsilon, momentum, square=None):
    """The sampler, begun with w and m from exact draws of their joint law; and w's laws."""
    laws = [
        joint_law(h, float(g), epsilon, momentum) for h, g in zip(CURVATURES, METRIC, strict=True)
    ]
    draws = np.stack(
        [
            np.random.default_rng(i).multivariate_normal([0, 0], law, MANY)
            for i, law in enumerate(laws)
        ]
    )
    start, mean = torch.from_numpy(draws[..., 0].T.copy()), torch.from_numpy(draws[..., 1].T.copy())

    def made(part):
        def init(position):
            flat = torch.zeros_like(position.flat)
            known = flat if square is None else square.expand(MANY, -1).reshape(-1).clone()
            return State(position, mean.reshape(-1).clone(), known, 100_000)

        return make(part)._replace(init=init)

    return made, start, [math.sqrt(law[0, 0]) for law in laws]


def distances(made, start, deviations, steps=60):
    last = run(made, quadratic_loss(CURVATURES), steps=steps, start=start).last["w"]
    assert (last - start).square().mean() > 0.1 * start.square().mean()
    return [
        stats.kstest(last[:, i].numpy(), stats.norm(scale=s).cdf).statistic
        for i, s in enumerate(deviations)
    ]


@pytest.mark.parametrize("epsilon", [0.02, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_discretised_law_is_invariant(momentum, epsilon):
    """With given factors, and with a G that was learnt and kept."""
    if momentum == 0:
        for h, g in zip(CURVATURES, METRIC.tolist(), strict=True):
            a = NBETA * h + GAMMA
            variance = 1 / (a * (1 - epsilon * g * a / 4))
            assert joint_law(h, g, epsilon, 0.0)[0, 0] == pytest.approx(variance, rel=1e-9)
    square = (1 / METRIC - 0.05).square()  # G = 1/(0.05 + √V)
    for build, known in (
        (given({"w": METRIC}, epsilon, momentum=momentum), None),
        (learnt(epsilon, momentum=momentum, stability=0.05, warm_up=99_000), square),
    ):
        for distance in distances(*from_law(build, epsilon, momentum, known)):
            assert distance < dkw_bound(MANY, FALSE_FAIL)


def test_the_bias_of_a_large_step_is_seen():
    made, start, _ = from_law(given({"w": METRIC}, 0.3), 0.3, 0.0)
    exact = [1 / math.sqrt(NBETA * h + GAMMA) for h in CURVATURES]
    assert max(distances(made, start, exact)) > dkw_bound(MANY, FALSE_FAIL)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_the_check_tells_the_step_size_bias(momentum, noisy):
    """λ̂ over all data at γ = 0 with given factors: within five errors of 400 chains."""
    h, epsilon = [1.0, 0.5], 0.05
    tilts = centred_tilts(5000, 2, 4.0) if noisy else None
    make = given({"w": torch.tensor([0.5, 3.0])}, epsilon, momentum=momentum, check_period=1)
    trace = run(
        make, quadratic_loss(h, tilts=tilts), steps=1500, chains=400, gamma=0.0,
        batch_size=10 if noisy else 1000, full_data_trace=True,
    )  # fmt: skip
    bias = excess(trace, NBETA)[:, 300:].mean(1) - 1.0
    measured = epsilon / 8 * trace.squared_gradient[:, 300:].mean(1).numpy()
    assert measured.mean() > 0.04
    assert_vanishes(bias - measured, 5)
    assert trace.acceptance.isnan().all() == bool(momentum)


def test_the_check_counts_the_localisation_too():
    """½(E⟨w, ∇U⟩ − d) at γ = 4, where the drift has a part with momentum and one without."""
    h, epsilon, gamma = [1.0, 0.5], 0.05, 4.0
    make = given({"w": torch.tensor([0.5, 3.0])}, epsilon, momentum=0.8, check_period=1)
    trace = run(make, quadratic_loss(h), steps=1500, chains=400, gamma=gamma, distances=True)
    virial = 2 * excess(trace, NBETA) + gamma * trace.distance.double().numpy() ** 2
    measured = epsilon / 8 * trace.squared_gradient[:, 300:].mean(1).numpy()
    assert measured.mean() > 0.04
    assert_vanishes(0.5 * (virial[:, 300:].mean(1) - 2) - measured, 5)


def test_acceptance_is_that_of_mala_with_the_same_metric():
    factors, gamma, epsilon, steps = network_factors(), 2.0, 0.3, 5
    posterior, gradient = problem(gamma)
    traces = [
        run_network(posterior, given(factors, epsilon, check_period=1), N, k + 1)
        for k in range(steps)
    ]
    metric, centre, losses = vector(factors), network_centre(gamma), traces[-1].loss
    expected = torch.empty(CHAINS, steps - 2, dtype=torch.float64)
    for chain in range(CHAINS):
        places = [vector(unstack(trace.last, chain)) for trace in traces[:-1]]  # w_1, w_2, …
        energies, laws = [], []
        for w, loss in zip(places, losses[chain, 1:], strict=True):
            energies.append(NETWORK_NBETA * loss + gamma / 2 * (w - centre).square().sum())
            slope = NETWORK_NBETA * gradient(w, slice(None)) + gamma * (w - centre)
            mean = w - epsilon / 2 * metric * slope
            laws.append(torch.distributions.Normal(mean, (epsilon * metric).sqrt()))
        for k in range(steps - 2):
            back = laws[k + 1].log_prob(places[k]).sum()
            forth = laws[k].log_prob(places[k + 1]).sum()
            expected[chain, k] = (energies[k] - energies[k + 1] + back - forth).exp().clamp(max=1)
    got = traces[-1].acceptance[:, 1:-1]
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-9)
    assert (expected < 0.99).sum() > 2


# The correction.


@pytest.mark.parametrize("decay", [0.0, 0.6])
def test_the_correction_is_the_derivative_of_the_metric(decay):
    """Γ = ∂G/∂w by automatic differentiation, V̂ differentiated as if it were g² throughout.

    On a loss of separate coordinates, where the Hessian is diagonal and its estimate exact.
    """
    start, stability, epsilon = normals(4, 2), 0.3, 0.01
    loss = skewed().loss
    plain, corrected = (
        run(
            learnt(epsilon, decay=decay, stability=stability, correction=c), loss, steps=1,
            chains=4, start=start,
        )
        for c in (False, True)
    )  # fmt: skip
    w = start.clone().requires_grad_()
    metric = 1 / (stability + (w.exp() - 1).abs())
    expected = torch.autograd.grad(metric.sum(), w)[0]
    got = (corrected.last["w"] - plain.last["w"]) * 2 / epsilon
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    assert corrected.gradients == 3 * plain.gradients


def test_the_hessian_is_estimated_without_bias():
    """Its mean over 4,000 sign vectors, five errors around the diagonal of autograd's."""
    posterior, gradient = problem()
    layout = posterior.layout
    estimate, batches = DiagonalHessian(posterior), posterior.block(1)
    batches.load(1, None)
    block = Block([], posterior.centre.flat, batches)
    source = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(4000):
        noise = torch.randn(layout.total, generator=source, dtype=torch.float64)
        draws.append(estimate.at(block, 0, posterior.centre, noise).clone())
    draws = layout.views(torch.stack(draws))
    values = torch.cat([leaf[:, 0].flatten(1) for leaf in draws.values()], dim=1)
    centre = network_centre(0.0)
    hessian = []
    for i in range(len(centre)):
        unit = torch.zeros_like(centre)
        unit[i] = 1e-5
        rows = slice(None)
        hessian.append((gradient(centre + unit, rows) - gradient(centre - unit, rows))[i] / 2e-5)
    error = values.std(0) / math.sqrt(len(values))
    assert ((values.mean(0) - torch.stack(hessian)).abs() < 5 * error + 1e-7).all()


def second_moment(epsilon, correction, decay):
    """a·E w² on U = ½·11·w² after a while, and its error: one for the exact posterior."""
    loss = VectorLoss(1, lambda w: 0.5 * (w * w).sum(-1), lambda w: w)
    make = learnt(epsilon, decay=decay, stability=0.2, correction=correction)
    start, steps = normals(1000, 1) / math.sqrt(11), round(6 / epsilon)
    trace = run(make, loss, steps=steps, chains=1000, start=start, distances=True)
    return chain_mean_and_error(11 * trace.distance[:, steps // 3 :].square())


def test_a_metric_that_follows_needs_the_correction():
    """Without it the law stays wrong however small the step is; with it the error goes with ε."""
    wrong, _ = second_moment(0.01, False, 0.0)
    (coarse, error), (fine, other_error) = (second_moment(e, True, 0.0) for e in (0.02, 0.01))
    errors = 5 * math.hypot(error / 2, other_error)
    assert 2 * errors < coarse - 1  # enough chains to see it
    assert abs(fine - 1) < (coarse - 1) / 2 + errors
    assert wrong - 1 > 2 * (fine - 1)


def test_the_correction_is_that_of_a_metric_with_memory_too():
    """κ = 0.6: the share 1 − κ of Γ that the newest gradient has would leave more than half."""
    wrong, _ = second_moment(0.01, False, 0.6)
    right, error = second_moment(0.01, True, 0.6)
    assert abs(right - 1) + 5 * error < 0.2 * (wrong - 1)


def test_the_warm_up_is_declared():
    """Whoever reads the draws leaves out those of a metric that is still learnt."""
    posterior, _ = problem()
    assert learnt(warm_up=30)(posterior).warm_up == 30
    assert learnt()(posterior).warm_up == given(network_factors())(posterior).warm_up == 0
