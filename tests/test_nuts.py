"""NUTS against a plain one-chain version, its tree algebra, and the mass it learns."""

import math

import numpy as np
import pytest
import torch
from ladder import GAMMA, NBETA, run, skewed
from oracles import chain_mean_and_error, normals, quadratic_loss

from llc.diagnostics import ess, excess
from llc.samplers.adaptation import Metric, Variance, Windows
from llc.samplers.doubling import DIVERGENCE
from llc.samplers.hmc import hmc, quarter_period
from llc.samplers.nuts import nuts
from llc.samplers.trees import Stretch, grow, join, turns
from llc.streams import NormalSource, Stream, UniformSource
from llc.theory import finite

SIGMAS = 5
NARROW = torch.logspace(-7, -4, 24, dtype=torch.float64)  # variances
STRONG = 1 / float(NARROW.max())  # γ


def turning(velocities):
    """The criterion on one stretch of a chain, from its definition: as a whole, and the halves."""
    half = len(velocities) // 2

    def bad(part):
        total = part.sum(0)
        return bool(total @ part[0] <= 0 or total @ part[-1] <= 0)

    return bad(velocities) or bad(velocities[: half + 1]) or bad(velocities[half - 1 :])


def any_turn(velocities):
    """Whether a complete subtree of a binary tree turns."""
    if len(velocities) == 1:
        return False
    half = len(velocities) // 2
    return any_turn(velocities[:half]) or any_turn(velocities[half:]) or turning(velocities)


def straight(depth, chains):
    """Along a common direction, so that about half of the trees do not turn."""
    velocities = normals(chains, 2**depth, 4, seed=depth)
    velocities[..., 0] += (0.5, 0.8, 1.1, 1.4)[depth - 1]
    return velocities


@pytest.mark.parametrize("together", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_turns_of_every_subtree_are_found(depth, together):
    chains = 400
    velocities = straight(depth, chains)
    trees, found = [], torch.zeros(chains, dtype=torch.bool)
    for number, part in enumerate(velocities.transpose(0, 1).split(together)):
        found |= turns(part).any(0)
        across = grow(trees, number, Stretch.of(part))
        if across is not None:
            found |= across
    expected = torch.tensor([any_turn(one) for one in velocities])
    assert torch.equal(found, expected)
    assert 10 < expected.sum() < chains - 10
    (tree,) = trees
    torch.testing.assert_close(tree.total, velocities.sum(1))
    assert torch.equal(tree.first, velocities[:, 0])
    assert torch.equal(tree.last, velocities[:, -1])


def test_turns_are_told_at_the_leaf_that_completes_them():
    """Whatever follows, and be it not finite."""
    velocities = straight(3, 400).transpose(0, 1)
    velocities[5, ::2] = torch.nan
    velocities[6, ::3] = torch.inf
    found = turns(velocities)
    for leaf in range(5):
        sizes = [2**k for k in (1, 2, 3) if (leaf + 1) % 2**k == 0]
        for chain in range(400):
            ends = (velocities[leaf + 1 - size : leaf + 1, chain] for size in sizes)
            assert bool(found[leaf, chain]) == any(turning(part) for part in ends)
    assert 10 < found[3].sum() < 390
    assert not found[::2, 1].any()


def test_the_criterion_reads_the_same_backwards():
    velocities = normals(300, 8, 3, seed=5)
    velocities[..., 0] += 1

    def stretch(part):
        return Stretch(part[:, 0], part[:, -1], part.sum(1))

    flipped = velocities.flip(1)
    _, forwards = join(stretch(velocities[:, :3]), stretch(velocities[:, 3:]))
    _, backwards = join(stretch(flipped[:, :5]), stretch(flipped[:, 5:]))
    assert torch.equal(forwards, backwards)
    assert 10 < forwards.sum() < 290


def plain_nuts(value, slope, start, velocity, uniform, epsilon, max_depth):
    """One transition of one chain, with every leaf kept: its end, and how many leaves it took."""

    def leap(q, p, signed):
        p = p - signed / 2 * slope(q)
        q = q + signed * p
        return q, p - signed / 2 * slope(q)

    def energy(q, p):
        return float(value(q) + p @ p / 2)

    first, leaves = energy(start, velocity), [(start, velocity)]
    chosen, mass, taken, coins = start, 1.0, 0, 2**max_depth - 1
    for depth in range(max_depth):
        coin, accept = uniform[coins + 2 * depth : coins + 2 * depth + 2]
        sign = 1 if coin < 0.5 else -1
        q, p = leaves[-1] if sign > 0 else leaves[0]
        new, weights = [], []
        for _ in range(2**depth):
            q, p = leap(q, p, sign * epsilon)
            taken += 1
            new.append((q, p))
            weights.append(first - energy(q, p))
            partial = torch.stack([own for _, own in new])
            complete = [
                partial[len(new) - 2**k :] for k in range(1, depth + 1) if len(new) % 2**k == 0
            ]
            if weights[-1] < -DIVERGENCE or any(turning(part) for part in complete):
                return chosen, taken
        noise = uniform[2**depth - 1 : 2 ** (depth + 1) - 1]
        keys = [w - math.log(-math.log(u)) for w, u in zip(weights, noise, strict=True)]
        own_mass = sum(math.exp(w) for w in weights)
        if accept < own_mass / mass:
            chosen = new[int(np.argmax(keys))][0]
        mass += own_mass
        leaves = leaves + new if sign > 0 else new[::-1] + leaves
        # The half that was there and the half that is new, in the order of time.
        if turning(torch.stack([own for _, own in leaves])):
            return chosen, taken
    return chosen, taken


@pytest.mark.parametrize("epsilon", [0.05, 0.3, 0.6])
def test_a_transition_is_that_of_a_plain_version(epsilon):
    """The same noise and the same uniforms: the same leaf, chain by chain."""
    chains, max_depth = 40, 6
    target = skewed()
    start = target.start[:chains]
    streams = [Stream(0, chain) for chain in range(chains)]
    velocities = NormalSource(streams, 2, 1, start).draw(1)[:, 0, :2]
    uniforms = UniformSource(streams, 2**max_depth - 1 + 2 * max_depth, start.device).draw(1)[0]

    def value(q):
        return NBETA * target.loss.value(q) + GAMMA / 2 * q @ q

    def slope(q):
        return NBETA * target.loss.gradient(q) + GAMMA * q

    leaves = []

    def build(part):
        sampler = nuts(part, warm_up=0, epsilon=epsilon, max_depth=max_depth)

        def advance(state, block):
            state, info = sampler.advance(state, block)
            leaves.append(state.leaves)
            return state, info

        return sampler._replace(advance=advance)

    last = run(build, target.loss, steps=1, chains=chains, start=start).last["w"]
    plain = [
        plain_nuts(value, slope, *own, epsilon, max_depth)
        for own in zip(start, velocities, uniforms.tolist(), strict=True)
    ]
    assert leaves[0].tolist() == [count for _, count in plain]
    assert len(set(leaves[0].tolist())) > 1 or epsilon == 0.05
    torch.testing.assert_close(last, torch.stack([q for q, _ in plain]), rtol=1e-9, atol=1e-10)


def test_a_short_step_fills_the_tree():
    trace = run(
        lambda p: nuts(p, warm_up=0, epsilon=1e-4, max_depth=4), skewed().loss, steps=10, chains=3
    )
    assert trace.gradients == 10 * 3 * 15


def test_the_step_size_adapts_to_the_acceptance():
    """Dual averaging ends above its target, as in Stan: the curve is steeper above than below."""
    loss = quadratic_loss([1.0, 0.5, 0.2] * 10)
    for epsilon in (1e-2, 10.0):
        trace = run(
            lambda p, e=epsilon: nuts(p, warm_up=150, epsilon=e), loss, steps=200, chains=20
        )
        assert 0.75 < trace.acceptance[:, 150:].mean() < 0.92
        assert (trace.step_size[:, 150:].diff(dim=1) == 0).all()


def narrow():
    """Curvatures of a Gaussian whose variances go from 1e-7 to 1e-4, with γ = 1e4."""
    return ((1 / NARROW - STRONG) / NBETA).numpy()


def assert_narrow(build, warm_up, steps):
    """λ̂ is that of the narrow Gaussian; the gradients of a transition after the warm-up."""
    counts = []

    def counting(part):
        sampler = build(part)

        def advance(state, block):
            state, info = sampler.advance(state, block)
            counts.append(info.gradients / (8 * len(block.positions)))
            return state, info

        return sampler._replace(advance=advance)

    trace = run(counting, quadratic_loss(narrow()), steps=steps, chains=8, gamma=STRONG)
    draws = excess(trace, NBETA)[:, warm_up:]
    assert ess(draws) > 1000
    mean, error = chain_mean_and_error(draws)
    assert abs(mean - finite.quadratic(narrow(), NBETA, STRONG)) < SIGMAS * error
    return counts[0], np.mean(counts[-20:])


def test_the_mass_is_learnt():
    """As many leapfrog steps as for a standard normal (7 or 15), where it was many more."""
    before, after = assert_narrow(lambda p: nuts(p, warm_up=200), 200, 700)
    assert before > 20
    assert after <= 16


def test_hmc_with_a_mass_swings_every_direction_alike():
    """A quarter period of γ is one of every direction, in a few steps."""
    quarter = quarter_period(STRONG)
    before, after = assert_narrow(
        lambda p: hmc(p, trajectory=quarter, warm_up=200, adapt_mass=True), 200, 500
    )
    assert before > 20
    assert after <= 16


def average(values):
    return values.mean(1, keepdim=True)


def learnt(draws, unit=1.0):
    metric = Metric.start(draws[0])
    for draw in draws:
        metric = metric.seen(draw)
    return metric.renewed(average, unit).inverse


def test_variances_are_those_of_the_draws():
    draws = 1e6 + normals(50, 3, 4, seed=1)
    state = Variance.start(draws[0])
    for draw in draws:
        state = state.seen(draw)
    torch.testing.assert_close(state.value(), draws.var(0), rtol=1e-8, atol=0)


def test_the_mass_has_no_scale_of_its_own():
    scales = torch.tensor([1e-4, 1e-2, 1.0, 3.0], dtype=torch.float64)
    draws = scales * normals(40, 3, 4, seed=2)
    variances = draws.var(0)
    middle = variances.log().mean(1, keepdim=True).exp()
    expected = variances ** (40 / 45) * middle ** (5 / 45)
    torch.testing.assert_close(learnt(draws), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(learnt(1e-3 * draws), 1e-6 * learnt(draws), rtol=1e-9, atol=0)
    torch.testing.assert_close(learnt(draws, 7.0), 7 * learnt(draws), rtol=1e-9, atol=0)


def test_a_chain_that_stands_still_keeps_its_mass():
    draws = normals(40, 2, 4, seed=3)
    draws[:, 1] = 0.5
    inverse = learnt(draws)
    assert torch.equal(inverse[1], torch.ones(4, dtype=torch.float64))
    assert (inverse[0] != 1).all()


@pytest.mark.parametrize(
    ("warm_up", "first", "ends"),
    [
        (19, 0, ()),
        (100, 15, (90,)),
        (150, 75, (100,)),
        (1000, 75, (100, 150, 250, 450, 950)),
    ],
)
def test_windows_are_those_of_stan(warm_up, first, ends):
    assert Windows.of(warm_up) == (first, ends)
