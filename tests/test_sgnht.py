"""The stochastic gradient thermostat: its equation, its law, and the noise it pays for."""

import math

import pytest
import torch
from ladder import FALSE_FAIL, GAMMA, MANY, NBETA, run
from oracles import (
    assert_vanishes,
    centred_tilts,
    chain_mean_and_error,
    dkw_bound,
    normals,
    quadratic_loss,
)
from scipy import stats
from stochastic import NBETA as NETWORK_NBETA
from stochastic import assert_replay, problem, vector

from llc.diagnostics import excess
from llc.params import unstack
from llc.samplers.sghmc import sghmc
from llc.samplers.sgnht import State, sgnht
from llc.theory import quadratic

EPSILON = 0.02


def build(epsilon=EPSILON, friction=0.1):
    return lambda part: sgnht(part, epsilon, friction=friction)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_steps_are_the_formula_with_the_noise_and_the_batches_replayed(gamma):
    """In the variables of Ding et al.: h² = η, p = v/h, their ξ = ζ/h and A = α/h."""
    centre, friction = vector(unstack(problem(gamma)[0].centre.leaves, 0)), 0.4
    h = math.sqrt(friction * EPSILON / 2)
    inertia = h**2 / (friction / 4) ** 2

    def step(memory, w, xi, gradient):
        p, thermostat = memory or (torch.zeros_like(w), torch.full_like(w, friction / h))
        slope = NETWORK_NBETA * gradient(w) + gamma * (w - centre)
        noise = math.sqrt(2 * friction) * xi  # √(2Ah)
        moved = p - thermostat * p * h - slope * h + noise
        heat = (1 - thermostat * h / 2) * moved**2 - 1
        return (moved, thermostat + heat * h / inertia), w + moved * h

    assert_replay(build(friction=friction), step, gamma=gamma)


def from_law(epsilon, friction, curvatures, frictions=None):
    """The sampler begun near its law: w exact, v and ζ as for vanishing steps."""
    precision = torch.tensor([NBETA * h + GAMMA for h in curvatures], dtype=torch.float64)
    start, speed, other = normals(3, MANY, len(curvatures), seed=9).unbind()
    deviation = math.sqrt(friction * epsilon / (2 - friction))

    def made(part):
        thermostat = (friction + friction / 4 * other).reshape(-1)
        velocity = (deviation * speed).reshape(-1)
        return build(epsilon, friction)(part)._replace(
            init=lambda position: State(position, velocity, thermostat)
        )

    return made, start * precision.rsqrt(), precision


@pytest.mark.parametrize(("friction", "epsilon"), [(0.1, 0.1), (0.5, 0.05)])
def test_exact_draws_stay_exact_where_the_step_is_small(friction, epsilon):
    """Its law has no closed form; on a Gaussian the thermostat keeps every a·E w² near one."""
    curvatures = [1.0, 0.1, 0.0]
    made, start, precision = from_law(epsilon, friction, curvatures)
    last = run(made, quadratic_loss(curvatures), steps=200, start=start).last["w"]
    assert (last - start).square().mean() > 0.1 * start.square().mean()
    for column, a in enumerate(precision.tolist()):
        law = stats.norm(scale=1 / math.sqrt(a)).cdf
        distance = stats.kstest(last[:, column].numpy(), law).statistic
        assert distance < dkw_bound(MANY, FALSE_FAIL)


def second_moments(make, noise):
    """a·E w² − 1 and its error on U = ½·11·w², from minibatches of one example.

    noise: the deviation of the minibatch's gradient, in units of √11.
    """
    tilts = centred_tilts(20_000, 1, noise * math.sqrt(11) / NBETA)
    start, size = normals(400, 1) / math.sqrt(11), 1 if noise else len(tilts)
    trace = run(
        make, quadratic_loss([1.0], tilts=tilts), steps=2500, chains=400, start=start,
        batch_size=size, distances=True,
    )  # fmt: skip
    return chain_mean_and_error(11 * trace.distance[:, 1000:].square() - 1)


@pytest.mark.parametrize(("share", "noise", "inflation"), [(3.0, 0.0, 0.04), (0.75, 3.0, 1.71)])
def test_it_pays_for_the_step_and_for_the_minibatch(share, noise, inflation):
    """εa = `share`: SGHMC inflates the variance, the thermostat by less than 1 %, to five errors.

    inflation: (1 + εσ²/4)/(1 − αεa/(4(2 − α))) − 1.
    """
    epsilon, friction = share / 11, 0.1
    plain, error = second_moments(lambda p: sghmc(p, epsilon, friction=friction), noise)
    assert abs(plain - inflation) < 5 * error + 0.01
    own, error = second_moments(build(epsilon, friction), noise)
    assert error < 0.006
    assert abs(own) < 5 * error + 0.01


def test_llc_under_minibatch_noise():
    """λ̂ over all data of two directions, one of them noisy, against the exact posterior's."""
    h = [1.0, 0.3]
    loss = quadratic_loss(h, tilts=centred_tilts(5000, 2, 3.0) * torch.tensor([1.0, 0.0]))
    trace = run(
        build(0.05, 0.1), loss, steps=3000, chains=200, gamma=1.0, batch_size=10,
        full_data_trace=True,
    )  # fmt: skip
    assert_vanishes(excess(trace, NBETA)[:, 1000:] - quadratic(h, NBETA, 1.0), 5)


def test_an_impossible_friction_is_refused():
    with pytest.raises(ValueError, match=r"friction=0.*must be above 0"):
        sgnht(problem()[0], EPSILON, friction=0)
