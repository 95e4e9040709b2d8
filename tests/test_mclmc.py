"""The isokinetic integrator, MCLMC's tuning and bias, and the adjusted form's step size."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from ladder import GAMMA, NBETA, run
from oracles import VectorLoss, chain_mean_and_error, normals, quadratic_loss

from llc.diagnostics import ess, excess
from llc.posterior import LocalPosterior
from llc.samplers.adaptation import EnergyError, Mixing
from llc.samplers.integrators import minimal_norm, turn
from llc.samplers.mamclmc import mamclmc
from llc.samplers.mclmc import TARGET, mclmc
from llc.samplers.rows import RowData
from llc.theory import finite

SIGMAS = 5
CURVATURES = [1.0, 0.3, 0.1] * 4


def units(*shape, seed):
    vectors = normals(*shape, seed=seed)
    return vectors / vectors.norm(dim=-1, keepdim=True)


def quartic(dimension):
    def slope(w):
        return 4 * w**3 + w.roll(1, -1) + w.roll(-1, -1)

    return VectorLoss(dimension, lambda w: (w**4 + w * w.roll(1, -1)).sum(-1), slope)


def travel(position, velocity, epsilon, steps):
    """Steps on the quartic: position, velocity and the energy U + K, each chain's."""
    loss = quartic(position.shape[1])
    centre = {"w": torch.zeros(1, position.shape[1], dtype=torch.float64)}
    data = RowData(LocalPosterior.around(loss, centre, NBETA, GAMMA, len(position)))
    here, slope = data.rows(position.clone()), data.rows(torch.empty_like(position))
    velocity, gained = velocity.clone(), torch.zeros(len(position), dtype=torch.float64)
    data.gradient(here, slope)
    sizes = torch.full_like(gained, epsilon)
    for _ in range(steps):
        gained += minimal_norm(
            lambda: data.gradient(here, slope), here.matrix, velocity, slope.matrix, sizes
        )
    return here.matrix, velocity, data.energies(here)[1] + gained


def test_a_turn_solves_its_equation():
    """Against Runge-Kutta; the work done is the integral of ⟨u, −∇U⟩."""
    u, slope = units(5, 4, seed=1), 3 * normals(5, 4, seed=2)

    def rates(state):
        u, _ = state
        along = (u * slope).sum(1, keepdim=True)
        return torch.stack([(along * u - slope) / 3, -along.expand_as(u)])

    state, h = torch.stack([u, torch.zeros_like(u)]), 1e-3
    for _ in range(700):
        a = rates(state)
        b = rates(state + h / 2 * a)
        c = rates(state + h / 2 * b)
        state = state + h / 6 * (a + 2 * b + 2 * c + rates(state + h * c))
    turned = u.clone()
    gained = turn(turned, slope, torch.full((5,), 0.7, dtype=torch.float64))
    torch.testing.assert_close(turned, state[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(gained, state[1][:, 0], rtol=0, atol=1e-9)
    # Without a force it goes straight on.
    turn(turned, torch.zeros_like(slope), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(turned, state[0], rtol=0, atol=1e-9)


def test_velocities_stay_on_the_sphere():
    _, velocity, _ = travel(0.3 * normals(6, 5, seed=1), units(6, 5, seed=2), 0.1, 200)
    torch.testing.assert_close(velocity.norm(dim=1), torch.ones(6, dtype=torch.float64))


def test_the_integrator_is_reversible():
    start, velocity = 0.3 * normals(6, 5, seed=1), units(6, 5, seed=2)
    there, turned, _ = travel(start, velocity, 0.05, 40)
    assert (there - start).norm(dim=1).min() > 0.1
    back, away, _ = travel(there, -turned, 0.05, 40)
    torch.testing.assert_close(back, start, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(away, -velocity, rtol=1e-8, atol=1e-9)


def test_energy_error_is_of_second_order():
    start, velocity = 0.3 * normals(6, 5, seed=1), units(6, 5, seed=2)
    _, _, exact = travel(start, velocity, 0.0, 1)
    errors = [
        (travel(start, velocity, 2.0 / steps, steps)[2] - exact).abs()
        for steps in (800, 1600, 3200)
    ]
    for coarse, fine in pairwise(errors):
        order = torch.log2(coarse / fine)
        assert ((order > 1.7) & (order < 2.3)).all()


def test_the_energy_gained_is_the_volume_lost():
    """log|∂(q', u')/∂(q, u)| on space × sphere is −ΔK: why e^−ΔE is the Metropolis ratio."""
    size, h = 4, 1e-5
    start, velocity = 0.3 * normals(1, size, seed=3), units(1, size, seed=4)

    def flow(q, u):
        q, u, _ = travel(q, u / u.norm(dim=1, keepdim=True), 0.2, 3)
        return q, u

    def tangents(u):
        """An orthonormal basis (d, d − 1) of the directions in which u can turn."""
        return torch.linalg.svd(u)[2][1:].T

    q1, u1 = flow(start, velocity)
    into, out, columns = tangents(velocity), tangents(u1), []
    zero = torch.zeros_like(start)
    moves = [(e.unsqueeze(0), zero) for e in torch.eye(size, dtype=torch.float64)]
    moves += [(zero, t.unsqueeze(0)) for t in into.T]
    for dq, du in moves:
        ahead, behind = (flow(start + s * dq, velocity + s * du) for s in (h, -h))
        q, u = ((a - b)[0] / (2 * h) for a, b in zip(ahead, behind, strict=True))
        columns.append(torch.cat([q, out.T @ u]))
    volume = torch.linalg.slogdet(torch.stack(columns)).logabsdet
    before, after = (travel(q, u, 0.0, 1)[2] for q, u in ((start, velocity), (q1, u1)))
    gained = travel(start, velocity, 0.2, 3)[2] - after
    assert abs(before - after) > 0.1
    torch.testing.assert_close(volume, -gained[0], rtol=1e-5, atol=1e-6)


def bias(epsilon, chains=400, steps=600):
    """Of λ̂ on a Gaussian, from exact draws, and its standard error."""
    precisions = NBETA * torch.tensor(CURVATURES, dtype=torch.float64) + GAMMA
    start = normals(chains, len(CURVATURES), seed=8) * precisions.rsqrt()
    trace = run(
        lambda p: mclmc(p, warm_up=0, epsilon=epsilon, length=2.0),
        quadratic_loss(CURVATURES), steps=steps, chains=chains, start=start,
    )  # fmt: skip
    mean, error = chain_mean_and_error(excess(trace, NBETA)[:, 100:])
    return mean - finite.quadratic(CURVATURES, NBETA, GAMMA), error


def test_the_bias_vanishes_with_the_square_of_the_step():
    (large, large_error), (small, small_error) = bias(1.6), bias(0.8)
    assert abs(large) > 4 * SIGMAS * large_error
    assert abs(small) < 0.4 * abs(large) + SIGMAS * small_error
    (tiny, tiny_error) = bias(0.3)
    assert abs(tiny) < 0.06 * abs(large) + SIGMAS * tiny_error


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_the_step_is_tuned_to_the_energy_error(scale):
    """Whatever the units of w: E[ΔE²]/d of the closer looks, a factor of two for its tuning."""
    loss = quadratic_loss(np.array(CURVATURES * 5) / scale**2)
    trace = run(
        lambda p: mclmc(p, warm_up=600), loss,
        steps=3000, chains=16, gamma=GAMMA / scale**2, distances=True,
    )  # fmt: skip
    when = trace.checked_steps[trace.checked_steps >= 600]
    rows = trace.checked_steps >= 600
    potential = NBETA * trace.loss + GAMMA / scale**2 / 2 * trace.distance**2
    errors = trace.energy[:, rows] - potential[:, when]
    measured = errors.square().mean() / 60
    assert TARGET / 2 < measured < 2 * TARGET
    assert (trace.step_size[:, rows].diff(dim=1) == 0).all()


def test_moments_from_a_bad_start():
    """With a small energy error: what bias is left is below the Monte-Carlo error."""
    loss = quadratic_loss(CURVATURES)
    start = torch.full((64, len(CURVATURES)), 3.0, dtype=torch.float64)
    trace = run(
        lambda p: mclmc(p, warm_up=600, target=1e-6), loss, steps=3000, chains=64, start=start
    )
    draws = excess(trace, NBETA)[:, 600:]
    assert ess(draws) > 1000
    mean, error = chain_mean_and_error(draws)
    assert abs(mean - finite.quadratic(CURVATURES, NBETA, GAMMA)) < SIGMAS * error
    assert error < 0.02 * mean


def test_effective_draws_are_counted():
    """An autoregression of correlation ρ has (1 + ρ)/(1 − ρ) draws for each effective one."""
    rho, size = 0.8, 100
    noise = normals(4000, 2, 40, seed=6)
    draw, mixing = noise[0], Mixing.start(noise[0])
    for own in noise:
        draw = rho * draw + math.sqrt(1 - rho**2) * own
        mixing = mixing.seen(draw, size)
    # 40 batches of 40 numbers: a relative error of √(2/1600) = 0.035; 0.05 for correlated ends.
    expected = torch.full((2,), (1 + rho) / (1 - rho), dtype=torch.float64)
    torch.testing.assert_close(mixing.steps_per_draw(size), expected, rtol=0.25, atol=0)
    torch.testing.assert_close(
        mixing.spread(), torch.full((2,), math.sqrt(40), dtype=torch.float64), rtol=0.1, atol=0
    )


def test_an_energy_that_is_lost_makes_the_step_smaller():
    state = EnergyError.start(torch.tensor([1.0, 1.0], dtype=torch.float64))
    state = state.seen(torch.tensor([torch.nan, 0.1], dtype=torch.float64), 1.0, settling=False)
    assert state.step_size[0] == 0.8
    assert state.step_size[1] > 1
    for _ in range(50):
        state = state.seen(torch.zeros(2, dtype=torch.float64), 1.0, settling=False)
    assert state.step_size[0] == 0.8


def test_the_adjusted_step_size_adapts_to_the_acceptance():
    """Dual averaging ends above its target: the curve is steeper above than below."""
    loss = quadratic_loss([1.0, 0.5, 0.2] * 10)
    for epsilon in (1e-3, 10.0):
        trace = run(
            lambda p, e=epsilon: mamclmc(p, warm_up=200, epsilon=e, length=3.0),
            loss, steps=300, chains=20,
        )  # fmt: skip
        assert 0.85 < trace.acceptance[:, 200:].mean() < 0.97
        assert (trace.step_size[:, 200:].diff(dim=1) == 0).all()


def test_impossible_requests_are_refused():
    line = quadratic_loss([1.0])
    for build in (lambda p: mclmc(p, warm_up=10), lambda p: mamclmc(p, warm_up=10)):
        with pytest.raises(ValueError, match="one parameter"):
            run(build, line, steps=1, chains=1)
    with pytest.raises(ValueError, match="warm_up=0"):
        run(lambda p: mclmc(p, warm_up=0), quadratic_loss([1.0, 1.0]), steps=1, chains=1)
