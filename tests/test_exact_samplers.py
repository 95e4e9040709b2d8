"""The exact samplers on the test ladder: exact algebra, invariance, moments, and λ̂ at finite n."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from ladder import (
    GAMMA,
    NBETA,
    assert_cross_invariant,
    assert_invariant,
    gaussian,
    run,
    skewed,
)
from oracles import VectorLoss, chain_mean_and_error, cross_loss, normals, quadratic_loss

from llc.diagnostics import ess, excess
from llc.models.mlp import MLPLoss
from llc.models.mlp import init as init_mlp
from llc.params import Layout, stack
from llc.posterior import LocalPosterior
from llc.samplers.adaptation import StepSize
from llc.samplers.full_data import FullData
from llc.samplers.hmc import hmc
from llc.samplers.integrators import leapfrog
from llc.samplers.mala import mala
from llc.samplers.mamclmc import mamclmc
from llc.samplers.nuts import nuts
from llc.sampling import Schedule, sample
from llc.sampling.threads import intra_op_threads
from llc.streams import NormalSource, Stream, UniformSource
from llc.theory import finite

SIGMAS = 5

EXACT = {
    "mala": lambda part: mala(part, 0.15),
    "hmc": lambda part: hmc(part, trajectory=1.0, warm_up=0, epsilon=0.25),
    "nuts": lambda part: nuts(part, warm_up=0, epsilon=0.4, max_depth=4),
    "mamclmc": lambda part: mamclmc(part, warm_up=0, epsilon=0.7, length=2.0),
}
STEPS = {"mala": 60, "hmc": 4, "nuts": 4, "mamclmc": 4}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("target", [gaussian, skewed])
def test_exact_draws_stay_exact(name, target):
    assert_invariant(EXACT[name], target(), STEPS[name])


@pytest.mark.parametrize("name", EXACT)
def test_a_singular_target_is_left_alone(name):
    assert_cross_invariant(EXACT[name], STEPS[name])


@pytest.mark.parametrize("name", EXACT)
def test_steps_are_rejected_now_and_then(name):
    """Where nothing is rejected, invariance says nothing about the accept step."""
    for target in (gaussian(), skewed()):
        trace = run(EXACT[name], target.loss, steps=20, start=target.start)
        assert 0.3 < trace.acceptance.mean() < 0.99


@pytest.mark.parametrize("name", EXACT)
def test_moments_from_a_bad_start(name):
    loss = quadratic_loss([1.0, 0.1, 0.0])
    start = torch.full((64, 3), 3.0, dtype=torch.float64)
    trace = run(EXACT[name], loss, steps=1500, chains=64, start=start)
    draws = excess(trace, NBETA)[:, 500:]
    assert ess(draws) > 1000
    mean, error = chain_mean_and_error(draws)
    assert abs(mean - finite.quadratic([1.0, 0.1, 0.0], NBETA, GAMMA)) < SIGMAS * error


@pytest.mark.parametrize("name", EXACT)
def test_llc_of_a_singular_loss_is_that_of_quadrature(name):
    exact = finite.quadrature(lambda w: (w**2).prod(-1), NBETA, GAMMA, 2)
    trace = run(EXACT[name], cross_loss(), steps=1500, chains=64)
    draws = excess(trace, NBETA)[:, 500:]
    assert ess(draws) > 1000
    mean, error = chain_mean_and_error(draws)
    assert abs(mean - exact) < SIGMAS * error
    assert error < 0.03 * exact


@pytest.mark.parametrize("name", EXACT)
def test_the_first_draw_is_the_centre_and_losses_are_those_of_the_positions(name):
    loss = quadratic_loss([1.0, 0.1])
    short = run(EXACT[name], loss, steps=1, chains=3)
    longer = run(EXACT[name], loss, steps=2, chains=3)
    assert torch.equal(longer.loss[:, 0], torch.zeros(3, dtype=torch.float64))
    expected = loss.value(short.last["w"])
    torch.testing.assert_close(longer.loss[:, 1], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_what_a_state_knows_belongs_to_its_position(name):
    """After moves and rejections alike: ∇U, L_n and U."""
    target, states = skewed(), []

    def build(part):
        sampler = EXACT[name](part)

        def advance(state, block):
            states.append(sampler.advance(state, block))
            return states[-1]

        return sampler._replace(advance=advance)

    trace = run(build, target.loss, steps=12, chains=200, start=target.start[:200])
    state, w = states[-1][0], trace.last["w"]
    assert trace.acceptance[:, -1].min() < 0.9
    slope = NBETA * target.loss.gradient(w) + GAMMA * w
    value = target.loss.value(w)
    torch.testing.assert_close(state.slope.view_as(w), slope, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state.loss, value, rtol=1e-10, atol=1e-12)
    potential = NBETA * value + GAMMA / 2 * w.square().sum(1)
    torch.testing.assert_close(state.potential, potential, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_an_unstable_step_is_rejected_and_never_recorded(name):
    """Steps far beyond stability give energies that are infinite or NaN: the chains stand still."""
    wild = {
        "mala": lambda part: mala(part, 1e160),
        "hmc": lambda part: hmc(part, trajectory=1e160, warm_up=0, epsilon=1e158),
        "nuts": lambda part: nuts(part, warm_up=0, epsilon=1e158),
        "mamclmc": lambda part: mamclmc(part, warm_up=0, epsilon=1e158, length=1e160),
    }[name]
    start = normals(5, 2, seed=3)
    trace = run(wild, quadratic_loss([1.0, 2.0]), steps=4, chains=5, start=start)
    assert torch.equal(trace.last["w"], start)
    assert (trace.acceptance == 0).all()
    assert trace.loss.isfinite().all()


@pytest.mark.parametrize("name", EXACT)
def test_chains_do_not_depend_on_their_company(name):
    loss = quadratic_loss([1.0, 0.1, 0.0])
    many = run(EXACT[name], loss, steps=30, chains=5)
    few = run(EXACT[name], loss, steps=30, chains=2)
    torch.testing.assert_close(many.loss[:2], few.loss, rtol=1e-10, atol=1e-12)


def full_data(loss, dtype=torch.float64):
    centre = {n: torch.zeros(1, *s, dtype=dtype) for n, s in loss.shapes.items()}
    return FullData(LocalPosterior.around(loss, centre, NBETA, GAMMA, 3))


def quartic():
    return VectorLoss(2, lambda w: (w**4).sum(-1) + w.prod(-1) ** 2, _quartic_slope)


def _quartic_slope(w):
    return 4 * w**3 + 2 * w * w.flip(-1) ** 2


def travel(full, position, momentum, epsilon, steps):
    where = full.layout.stack(position.clone())
    p, slope = momentum.clone(), torch.empty_like(momentum)
    full.gradient(where, slope)
    step = torch.full_like(p, epsilon)
    for _ in range(steps):
        leapfrog(full.gradient, where, p, slope, step, step)
    return where, p


def energy(full, where, p):
    full.gradient(where, torch.empty_like(p))
    potential = full.potential(where, full.loss(where))
    return potential + 0.5 * full.layout.sums(p.square())


def perceptron(chains):
    """The posterior of a small network around random weights."""
    widths, source = (3, 5, 2), torch.Generator().manual_seed(0)
    loss = MLPLoss(normals(50, 3), normals(50, 2, seed=1), widths)
    centre = stack([init_mlp(widths, source, torch.float64)])
    return LocalPosterior.around(loss, centre, NBETA, GAMMA, chains)


def test_few_chains_are_evaluated_by_themselves(monkeypatch):
    """Their gradients and losses are those of the stack; the others keep what they had."""
    steps, posterior = 2, perceptron(4)
    layout = posterior.layout
    plain = FullData(posterior, steps)
    monkeypatch.setattr("llc.samplers.full_data.LONG", 0)
    full = FullData(posterior, steps, apart=True)
    places = [layout.stack(normals(layout.total, seed=k)) for k in range(2 * steps)]

    def both(going, points):
        """The gradients (of those that go) and losses at points, by the two."""
        for step, place in enumerate(points):
            got, expected = (layout.stack(torch.zeros_like(place.flat)) for _ in range(2))
            plain.add_gradient(place.leaves, expected.leaves, step)
            count = full.add_gradient(place.leaves, got.leaves, step, going)
            mask = torch.tensor(going or [True] * 4)
            layout.choose(mask, expected.flat, torch.zeros_like(place.flat))
            torch.testing.assert_close(got.flat, expected.flat, rtol=1e-12, atol=1e-12)
        leaves = [place.leaves for place in points]
        return count, full.losses(leaves), plain.losses(leaves)

    for going in (None, [True] * 4):
        count, got, before = both(going, places[:steps])
        assert count == 4
        torch.testing.assert_close(got, before, rtol=1e-12, atol=0)
    for going in ([False, True, False, True], [False, False, False, True]):
        count, got, expected = both(going, places[steps:])
        assert count == sum(going)
        torch.testing.assert_close(got[:, 3], expected[:, 3], rtol=1e-12, atol=0)
    torch.testing.assert_close(got[:, 1], expected[:, 1], rtol=1e-12, atol=0)
    torch.testing.assert_close(got[:, ::2], before[:, ::2], rtol=1e-12, atol=0)


def test_nuts_leaves_out_the_gradients_of_chains_that_have_finished(monkeypatch):
    def trace():
        streams = [Stream(0, chain) for chain in range(3)]
        return sample(
            perceptron(3), lambda p: nuts(p, warm_up=20, max_depth=6), Schedule(40, 50), streams
        )

    with intra_op_threads(1):
        stacked = trace()
        monkeypatch.setattr("llc.samplers.full_data.LONG", 0)
        apart = trace()
    torch.testing.assert_close(apart.loss, stacked.loss, rtol=1e-6, atol=1e-9)
    assert 0.4 * stacked.gradients < apart.gradients < stacked.gradients


def test_leapfrog_is_reversible():
    full = full_data(quartic())
    start, p = 0.5 * normals(6, seed=1), normals(6, seed=2)
    there, turned = travel(full, start, p, 0.05, 40)
    assert (there.flat - start).abs().max() > 0.1
    back, _ = travel(full, there.flat, -turned, 0.05, 40)
    torch.testing.assert_close(back.flat, start, rtol=1e-9, atol=1e-10)


def test_leapfrog_energy_error_is_of_second_order():
    full = full_data(quartic())
    start, p = 0.5 * normals(6, seed=1), normals(6, seed=2)
    before = energy(full, full.layout.stack(start.clone()), p)
    errors = []
    for steps in (400, 800, 1600):
        there, q = travel(full, start, p, 2.0 / steps, steps)
        errors.append((energy(full, there, q) - before).abs())
    for coarse, fine in pairwise(errors):
        order = torch.log2(coarse / fine)
        assert ((order > 1.8) & (order < 2.2)).all()


def test_leapfrog_keeps_volume():
    full = full_data(quartic())
    start = torch.cat([0.5 * normals(6, seed=1), normals(6, seed=2)])

    def flow(state):
        where, p = travel(full, state[:6], state[6:], 0.1, 5)
        return torch.cat([where.flat, p])

    h, columns = 1e-5, []
    for i in range(12):
        unit = torch.zeros(12, dtype=torch.float64)
        unit[i] = h
        columns.append((flow(start + unit) - flow(start - unit)) / (2 * h))
    assert abs(torch.linalg.det(torch.stack(columns)).item() - 1) < 1e-6


def test_acceptance_tends_to_one_with_the_step():
    target = gaussian()
    for shrink in (
        lambda e: lambda p: mala(p, 0.1 * e),
        lambda e: lambda p: hmc(p, trajectory=1.0, warm_up=0, epsilon=0.2 * e),
        lambda e: lambda p: nuts(p, warm_up=0, epsilon=0.2 * e, max_depth=6),
        lambda e: lambda p: mamclmc(p, warm_up=0, epsilon=0.5 * e, length=2.0),
    ):
        missing = [
            float(1 - run(shrink(e), target.loss, steps=3, start=target.start).acceptance.mean())
            for e in (1, 0.25)
        ]
        assert missing[1] < missing[0] / 4


def test_a_step_of_mala_is_the_formula_with_the_noise_replayed():
    loss, epsilon = quadratic_loss([1.0, 0.3]), 0.1
    start = normals(3, 2, seed=4)
    a = torch.tensor([11.0, 4.0], dtype=torch.float64)
    streams = [Stream(0, chain) for chain in range(3)]
    noise = NormalSource(streams, 2, 1, start).draw(1)[:, 0, :2]
    uniform = UniformSource(streams, 1, start.device).draw(1)[0, :, 0]
    proposal = start - epsilon / 2 * a * start + math.sqrt(epsilon) * noise
    u_old, u_new = (0.5 * (a * w**2).sum(1) for w in (start, proposal))
    forward = (proposal - start + epsilon / 2 * a * start).square().sum(1)
    backward = (start - proposal + epsilon / 2 * a * proposal).square().sum(1)
    probability = (u_old - u_new + (forward - backward) / (2 * epsilon)).exp().clamp(max=1)
    expected = torch.where((uniform < probability).unsqueeze(1), proposal, start)
    trace = run(lambda p: mala(p, epsilon), loss, steps=1, chains=3, start=start)
    torch.testing.assert_close(trace.acceptance[:, 0], probability, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(trace.last["w"], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "target"), [("mala", 0.574), ("hmc", 0.8)])
def test_the_step_size_adapts_to_the_acceptance(name, target):
    """From steps a hundred times too small and too large; 20 chains, 200 draws after 300."""
    loss = quadratic_loss([1.0, 0.5, 0.2] * 10)
    for first in (1e-3, 10.0):
        build = {
            "mala": lambda p, e=first: mala(p, e, warm_up=300),
            "hmc": lambda p, e=first: hmc(p, trajectory=1.0, warm_up=300, epsilon=e),
        }[name]
        trace = run(build, loss, steps=500, chains=20)
        assert abs(trace.acceptance[:, 300:].mean() - target) < 0.08
        assert (trace.step_size[:, 300:].diff(dim=1) == 0).all()


def test_dual_averaging_finds_the_root_of_a_noisy_curve():
    """α(ε) = exp(−ε) with noise: ε → −log 0.8."""
    state = StepSize.start(torch.full((2000,), 3.0, dtype=torch.float64))
    source = torch.Generator().manual_seed(0)
    for _ in range(400):
        step = state.value(warm=False)
        noise = 0.1 * torch.randn(2000, generator=source, dtype=torch.float64)
        state = state.update((-step).exp() + noise, 0.8)
    assert np.isclose(state.value(warm=True).mean().item(), -math.log(0.8), rtol=0.05)


@pytest.mark.parametrize("name", EXACT)
def test_gradients_in_float32_leave_the_law_exact(name):
    """Energies are float64's; only acceptance depends on how well the gradient is computed."""
    h = torch.tensor([1.0, 0.1, 0.0], dtype=torch.float64)
    target = gaussian()

    def rough(w):  # a few bits, as a deterministic function of w
        return (h * w * 8).round() / 8

    loss = VectorLoss(3, lambda w: 0.5 * (h * w * w).sum(-1), rough)
    assert_invariant(EXACT[name], target._replace(loss=loss), STEPS[name])


def test_full_data_gradient_and_loss_agree_in_both_precisions():
    inputs, targets = normals(50, 3), normals(50, 2, seed=1)
    source = torch.Generator().manual_seed(0)
    centre = stack([init_mlp((3, 4, 2), source, torch.float64)])
    results = []
    for dtype in (torch.float64, torch.float32):
        loss = MLPLoss(inputs.to(dtype), targets.to(dtype), (3, 4, 2))
        here = {name: leaf.to(dtype) for name, leaf in centre.items()}
        full = FullData(LocalPosterior.around(loss, here, NBETA, GAMMA, 2))
        layout = Layout(loss.shapes, 2)
        where = layout.pack({n: normals(2, *s, seed=9) for n, s in loss.shapes.items()})
        slope = full.gradient(where, torch.empty_like(where.flat))
        results.append((slope, full.loss(where)))
        assert full.loss(where).dtype == slope.dtype == torch.float64
    (one, a), (two, b) = results
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
