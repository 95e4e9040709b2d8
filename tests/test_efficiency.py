"""Costs and what they buy, against counts and computations by hand."""

import math

import pytest
import torch
from ladder import StoppedError, Stopping
from oracles import normals, quadratic_loss

import llc.sampling
from llc.checkpoints import Keeper
from llc.config import SamplerConfig, SGLDConfig
from llc.efficiency import Efficiency, efficiency, work_normalised_variance
from llc.estimate import estimate_one
from llc.models import dln
from llc.models.dln import LinearLoss
from llc.params import stack
from llc.posterior import LocalPosterior
from llc.samplers.choose import choose
from llc.samplers.sgld import sgld
from llc.sampling import Schedule, sample
from llc.streams import Stream

N = 60


def test_by_hand():
    """100 effective draws and an error of 0.1 in 4 seconds and 50 gradients over all the data."""
    assert efficiency(100.0, 0.1, 4.0, 50.0) == pytest.approx(Efficiency(25.0, 2.0, 0.04, 0.5))


def test_work_normalised_variance_belongs_to_the_sampler_not_to_the_length():
    """Four times the draws: half the error, four times the cost."""
    short = work_normalised_variance(0.3, 7.0)
    assert work_normalised_variance(0.15, 28.0) == pytest.approx(short)
    assert short == pytest.approx(0.63)


def test_nothing_is_bought_without_draws_or_cost():
    assert all(math.isnan(value) for value in efficiency(math.nan, math.nan, 1.0, 1.0))
    assert math.isnan(efficiency(10.0, 0.1, 0.0, 0.0).ess_per_fde)


def linear():
    inputs, widths = normals(N, 3), (3, 4, 2)
    centre = dln.init(widths, torch.Generator().manual_seed(0), torch.float64)
    return LinearLoss(inputs, dln.product(stack([centre])), widths), centre


def estimate(name, epsilon=1e-3, steps=40, **changes):
    loss, centre = linear()
    config = SGLDConfig(
        epsilon=epsilon, gamma=1.0, num_chains=3, num_steps=steps, batch_size=6, burn_in_prop=0.5
    )
    return estimate_one(
        loss,
        centre,
        nbeta=20.0,
        sgld_config=config,
        sampler_config=SamplerConfig(name, num_steps=steps),
        companions=False,
        **changes,
    )


@pytest.mark.parametrize(("name", "per_step"), [("sgld", 1), ("sgld_cv", 2), ("sghmc", 1)])
def test_minibatch_gradients_count_by_their_share_of_the_data(name, per_step):
    assert estimate(name).trace.gradients == pytest.approx(per_step * 3 * 40 * 6 / N)


@pytest.mark.parametrize("name", ["mala", "hmc", "nuts", "mclmc", "mamclmc"])
def test_full_data_gradients_are_those_that_were_taken(name, monkeypatch):
    taken, gradient = [], dln.LinearBlock.add_gradient

    def counted(self, step, weights, out, scale):
        taken.append(len(weights["layer1"]))
        return gradient(self, step, weights, out, scale)

    monkeypatch.setattr(dln.LinearBlock, "add_gradient", counted)
    trace = estimate(name).trace
    assert sum(taken) - trace.gradients == 3  # the one at w*, which every chain starts from
    assert 0 <= trace.warm_up_gradients < trace.gradients
    assert 0 <= trace.warm_up_seconds < trace.seconds


def test_the_warm_up_is_split_from_the_rest_also_after_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(llc.sampling.feed, "block_steps", lambda *_: 4)
    monkeypatch.setattr("llc.checkpoints.SHARE", float("inf"))
    centres = {"w": torch.zeros(1, 1, dtype=torch.float64)}
    posterior = LocalPosterior.around(quadratic_loss([1.0]), centres, 16.0, 1.0, 2)

    def work(keeper):
        def build(part):
            return sgld(part, 0.01)._replace(warm_up=10)

        streams = [Stream(2, chain) for chain in range(2)]
        return sample(posterior, build, Schedule(40, 50), streams, keeper=keeper)

    whole = work(Keeper())
    assert whole.warm_up_gradients == pytest.approx(10 * 2 * 50 / posterior.loss.num_examples)
    for blocks in (2, 4):  # in the warm-up, and after it
        keeper = Stopping(tmp_path / "c.pt", blocks)
        keeper.load()
        with pytest.raises(StoppedError):
            work(keeper)
    keeper = Keeper(tmp_path / "c.pt", period=0)
    assert keeper.load()
    resumed = work(keeper)
    assert resumed.gradients == whole.gradients
    assert resumed.warm_up_gradients == whole.warm_up_gradients
    assert 0 < resumed.warm_up_seconds < resumed.seconds


def test_coordinates_are_those_of_the_parameters():
    """The last draw but one step: `last` is where the chains end, one step after the last draw."""
    loss, centre = linear()
    posterior = LocalPosterior.around(loss, stack([centre]), 20.0, 1.0, 3)
    config = SGLDConfig(epsilon=1e-3, num_steps=9)
    streams = [Stream(0, chain) for chain in range(3)]

    def traced(steps, coordinates, thin=1):
        schedule = Schedule(steps, 6, thin=thin, distances=True, coordinates=coordinates)
        build = choose(SamplerConfig(), config, steps=steps)
        return sample(posterior, build, schedule, streams)

    everything = traced(10, 1000)
    assert everything.coordinates.shape == (3, 10, 20)
    norms = everything.coordinates.norm(dim=2)
    torch.testing.assert_close(norms, everything.distance)
    moved = {name: leaf - centre[name] for name, leaf in traced(9, 0).last.items()}
    flat = torch.cat([leaf.flatten(1) for leaf in moved.values()], dim=1)
    torch.testing.assert_close(everything.coordinates[:, -1], flat)
    few = traced(10, 4, thin=3)
    torch.testing.assert_close(few.coordinates, everything.coordinates[:, ::3, [0, 6, 12, 19]])
