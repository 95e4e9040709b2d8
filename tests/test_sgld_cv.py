"""SGLD with control variates: its equation, and the minibatch noise that it has not."""

import math
from dataclasses import replace

import pytest
import torch
from ladder import FALSE_FAIL, GAMMA, MANY, NBETA, run
from oracles import assert_vanishes, centred_tilts, dkw_bound, normals, quadratic_loss
from scipy import stats
from stochastic import BATCH, CHAINS, STREAMS, N, assert_replay, problem, vector
from stochastic import NBETA as NETWORK_NBETA
from stochastic import run as run_network

from llc.models.dln import LinearLoss
from llc.params import stack, unstack
from llc.posterior import LocalPosterior
from llc.samplers.sgld import sgld
from llc.samplers.sgld_cv import ControlVariates, sgld_cv
from llc.sampling import Schedule, sample

EPSILON = 0.02


def build(part):
    return sgld_cv(part, EPSILON)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_steps_are_the_formula_with_the_noise_and_the_batches_replayed(gamma):
    posterior, everywhere = problem(gamma)
    centre = vector(unstack(posterior.centre.leaves, 0))
    full = everywhere(centre, slice(None))

    def step(_, w, xi, gradient):
        estimate = full + gradient(w) - gradient(centre)
        slope = NETWORK_NBETA * estimate + gamma * (w - centre)
        return None, w - EPSILON / 2 * slope + math.sqrt(EPSILON) * xi

    assert_replay(build, step, gamma=gamma)


@pytest.mark.parametrize("at_once", [7, 1024])
def test_on_all_data_it_is_sgld(at_once, monkeypatch):
    monkeypatch.setattr("llc.samplers.sgld_cv.AT_ONCE", at_once)
    posterior, _ = problem()
    one, other = (
        run_network(posterior, make, size=N) for make in (build, lambda part: sgld(part, EPSILON))
    )
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-12, atol=1e-12)


def test_the_traced_losses_are_those_of_the_minibatches():
    """… at w_t and at w*, and not those of the last gradient that was asked for."""
    posterior, _ = problem()
    start = {name: leaf + 0.1 for name, leaf in posterior.centre.leaves.items()}
    one, other = (
        sample(posterior, make, Schedule(1, BATCH), STREAMS, start=start)
        for make in (build, lambda part: sgld(part, EPSILON))
    )
    assert torch.equal(one.loss, other.loss)
    assert torch.equal(one.baseline, other.baseline)
    assert not torch.equal(one.loss, one.baseline)
    assert one.gradients == 2 * other.gradients


def estimates(posterior, weights, steps=40):
    """Gradients at `weights` (C, …) on `steps` batches: plain, and with control variates."""
    layout = posterior.layout
    batches = posterior.block(steps)
    source = torch.Generator().manual_seed(3)
    shape = steps, posterior.chains, BATCH
    examples = posterior.loss.num_examples
    batches.load(steps, torch.randint(examples, shape, generator=source).int())
    corrected = replace(ControlVariates.around(posterior), batches=batches)
    results = []
    for block in (batches, corrected):
        slopes = [layout.stack(torch.zeros_like(weights.flat)) for _ in range(steps)]
        for k, slope in enumerate(slopes):
            block.add_gradient(k, weights.leaves, slope.leaves, 1.0)
        results.append(torch.stack([slope.flat for slope in slopes]))
    return results


def linear_problem():
    """A deep linear network around a point that is not its teacher."""
    widths = (3, 4, 2)
    centre = {"layer1": normals(4, 3, seed=5), "layer2": normals(2, 4, seed=6)}
    inputs = normals(50, 3)
    loss = LinearLoss(inputs, normals(2, 3, seed=1), widths)
    return LocalPosterior.around(loss, stack([centre]), NBETA, GAMMA, CHAINS)


@pytest.mark.parametrize("make", [lambda: problem()[0], linear_problem])
def test_at_the_centre_the_gradient_is_that_of_all_data_to_the_last_bit(make):
    posterior = make()
    plain, corrected = estimates(posterior, posterior.centre)
    full = ControlVariates.around(posterior).full
    assert torch.equal(corrected, full.expand_as(corrected))
    assert plain.var(0).sum() > 0.01 * full.square().sum()


@pytest.mark.parametrize("make", [lambda: problem()[0], linear_problem])
def test_the_noise_of_the_gradient_grows_with_the_distance_from_the_centre(make):
    """Variance over 40 batches, of all coordinates: proportional to the distance squared."""
    posterior = make()
    direction = normals(posterior.layout.total, seed=2)
    variances = []
    for distance in (1e-3, 1e-2):
        point = posterior.layout.stack(posterior.centre.flat + distance * direction)
        plain, corrected = (g.var(0).sum().item() for g in estimates(posterior, point))
        assert corrected < 0.1 * plain
        variances.append(corrected)
    assert variances[1] / variances[0] == pytest.approx(100, rel=0.3)


def test_it_is_unbiased():
    """The mean over all batches of one epoch is the gradient of all data."""
    posterior, _ = problem()
    layout = posterior.layout
    weights = layout.stack(posterior.centre.flat + normals(layout.total, seed=2))
    order = torch.arange(N).view(N // BATCH, 1, BATCH).expand(-1, CHAINS, -1).contiguous().int()
    batches = posterior.block(N // BATCH)
    batches.load(N // BATCH, order)
    corrected = replace(ControlVariates.around(posterior), batches=batches)
    slope, full = (layout.stack(torch.zeros_like(weights.flat)) for _ in range(2))
    for k in range(N // BATCH):
        corrected.add_gradient(k, weights.leaves, slope.leaves, BATCH / N)
    batches.load(1, None)
    batches.add_gradient(0, weights.leaves, full.leaves, 1.0)
    torch.testing.assert_close(slope.flat, full.flat, rtol=1e-10, atol=1e-12)


def end_points(make, epsilon):
    """On U = ½·11·w² with noisy minibatches, from the law of full-gradient SGLD."""
    variance = 1 / (11 * (1 - epsilon * 11 / 4))
    loss = quadratic_loss([1.0], tilts=centred_tilts(1000, 1, 6.0))
    start = normals(MANY, 1, seed=8) * variance**0.5
    last = run(make, loss, steps=60, start=start, batch_size=10).last["w"]
    law = stats.norm(scale=variance**0.5).cdf
    return stats.kstest(last[:, 0].numpy(), law).statistic


@pytest.mark.parametrize("epsilon", [0.01, 0.15])
def test_on_a_quadratic_its_law_is_that_of_full_gradients_whatever_the_batch(epsilon):
    """∇L_B(w) − ∇L_B(w*) does not depend on the batch there."""
    assert end_points(lambda p: sgld_cv(p, epsilon), epsilon) < dkw_bound(MANY, FALSE_FAIL)
    if epsilon > 0.1:  # and without control variates it does
        assert end_points(lambda p: sgld(p, epsilon), epsilon) > dkw_bound(MANY, FALSE_FAIL)


def test_the_check_tells_the_step_size_bias():
    """λ̂ over all data at γ = 0, within five errors of 400 chains."""
    loss = quadratic_loss([1.0, 0.5], tilts=centred_tilts(1000, 2, 6.0))
    trace = run(
        lambda p: sgld_cv(p, 0.1, 1), loss, steps=1200, chains=400, gamma=0.0, batch_size=10,
        full_data_trace=True,
    )  # fmt: skip
    bias = NBETA * trace.loss[:, 200:].mean(1) - 1.0
    measured = 0.1 / 8 * trace.squared_gradient[:, 200:].mean(1)
    assert measured.mean() > 0.1
    assert_vanishes(bias - measured, 5)
    assert trace.acceptance.isnan().all()
