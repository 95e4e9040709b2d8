"""Several points (ε, γ, nβ) in one stack are each point alone."""

import math

import pytest
import torch
from oracles import SWAPPED_RANKS, VectorLoss

from llc.config import SGLDConfig
from llc.estimate import estimate_one
from llc.models import mlp
from llc.models.mlp import MLPLoss
from llc.points import Point, estimate_points
from llc.posterior import LocalPosterior, Points
from llc.samplers.base import Block
from llc.samplers.sgld_points import sgld_points
from llc.sampling import Schedule, sample
from llc.streams import Stream

WIDTHS = (3, 4, 2)
# Highest temperatures of the companions: 256, 16, between, and that of γ = 0; the last diverges.
POINTS = [
    Point(1e-4, 0.1, 5.0),
    Point(3e-3, 20.0, 8.0),
    Point(1e-3, 1.5, 80.0),
    Point(1e-4, 0.0, 30.0),
    Point(50.0, 1.0, 30.0),
]


def problem(dtype=torch.float64, n=50):
    source = torch.Generator().manual_seed(0)
    centre = mlp.init(WIDTHS, source, torch.float64)
    inputs = torch.randn(n, 3, generator=source, dtype=torch.float64)
    answers = torch.randn(n, 2, generator=source, dtype=torch.float64)
    loss = MLPLoss(inputs.to(dtype), answers.to(dtype), WIDTHS)
    return loss, {name: leaf.to(dtype) for name, leaf in centre.items()}


def build(posterior):
    return sgld_points(posterior, check_period=20)


def around(loss, centres, points):
    columns = (torch.tensor(values, dtype=torch.float64) for values in zip(*points, strict=True))
    return LocalPosterior.around(loss, centres, 1.0, 0.0).at(Points(*columns))


@pytest.mark.parametrize("shared", [False, True])
def test_each_point_is_that_point_alone(shared):
    loss, centre = problem()
    config = SGLDConfig(num_steps=160, batch_size=8, burn_in_prop=0.5, shared_batches=shared)
    together = estimate_points(loss, centre, POINTS, sgld_config=config, seed=3)
    for point, found in zip(POINTS, together, strict=True):
        own = SGLDConfig(**{**vars(config), "epsilon": point.epsilon, "gamma": point.gamma})
        alone = estimate_one(loss, centre, nbeta=point.nbeta, sgld_config=own, seed=3)
        for name in ("loss", "baseline", "centre_loss", "diverged_at"):
            # Rounding: the same sums in another order, a few hundred times, no chaos at these ε.
            one, two = getattr(alone.trace, name), getattr(found.trace, name)
            torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-9, equal_nan=True)
        assert found.status == alone.status
        assert (found.epsilon, found.nbeta) == (point.epsilon, point.nbeta)
        if alone.num_diverged_chains:  # alone it stops, here it runs on with the others
            assert point is POINTS[-1]
            assert found.num_diverged_chains == alone.num_diverged_chains
            continue
        for name in ("acceptance", "squared_gradient", "energy", "step_size"):
            one, two = getattr(alone.trace, name), getattr(found.trace, name)
            torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-9)
        for name in (
            "mean", "standard_error", "cooled_mean", "cooled_bias", "step_size_bias", "ess",
            "drift", "share_below", "acceptance", "init_loss", "gradients",
        ):  # fmt: skip
            assert getattr(found, name) == pytest.approx(getattr(alone, name), rel=1e-6)
        assert found.rhat == pytest.approx(alone.rhat, rel=SWAPPED_RANKS)


def test_chains_of_a_point_may_be_cut_apart():
    """Unevenly, as over threads and devices."""
    loss, centre = problem()
    centres = {name: leaf.unsqueeze(0) for name, leaf in centre.items()}
    posterior = around(loss, centres, POINTS[:3]).repeat(2)
    streams = [Stream(5, chain) for _ in range(3) for chain in range(2)]
    schedule = Schedule(num_steps=50, batch_size=8)
    whole = sample(posterior, build, schedule, streams)
    for part in (slice(0, 3), slice(3, 4), slice(4, 6)):
        own = sample(posterior.select(part), build, schedule, streams[part])
        for name in ("loss", "acceptance", "squared_gradient"):
            torch.testing.assert_close(
                getattr(own, name), getattr(whole, name)[part], rtol=1e-9, atol=1e-9
            )


def test_localisation_survives_float32():
    """As for `sgld`: the mean pull is (εγ/2)(w* − w), though 1 − εγ/2 rounds to one in float32."""
    size, epsilons = 2**18, (2e-8, 1e-4)
    loss = VectorLoss(size, lambda w: 0 * w.sum(-1), lambda w: 0 * w)
    points = [Point(epsilon, 1.0, 3.0) for epsilon in epsilons]
    posterior = around(loss, {"w": torch.full((1, size), 0.7)}, points)
    noise = torch.randn(2, size, generator=torch.Generator().manual_seed(0))
    flat = noise.view(1, -1).clone()
    start = posterior.layout.pack({"w": torch.full((2, size), -0.5)})
    batches = posterior.block(1)
    batches.load(1, None)
    sampler = sgld_points(posterior)
    sampler.advance(sampler.init(start), Block([posterior.layout.stack(flat[0])], flat, batches))
    for epsilon, there, own in zip(epsilons, flat.view(2, -1).double(), noise, strict=True):
        moved = (there + 0.5 - (math.sqrt(epsilon) * own.double()).float().double()).mean().item()
        expected = epsilon / 2 * 1.2
        # Each number is rounded to about 3e-8, in a direction that the noise makes random.
        assert abs(moved - expected) < 5 * 3e-8 / math.sqrt(size) + 0.002 * expected


def test_points_are_asked_for():
    loss, centre = problem()
    centres = {name: leaf.unsqueeze(0) for name, leaf in centre.items()}
    with pytest.raises(ValueError, match="posterior: has no points: use sgld"):
        sgld_points(LocalPosterior.around(loss, centres, 5.0, 1.0))
    with pytest.raises(ValueError, match="points: is empty"):
        estimate_points(loss, centre, [], sgld_config=SGLDConfig(num_steps=20, batch_size=8))
    bad = [POINTS[0], Point(1e-4, 1.0, 0.0)]
    with pytest.raises(ValueError, match=r"nbeta=0\.0: must be > 0"):
        estimate_points(loss, centre, bad, sgld_config=SGLDConfig(num_steps=20, batch_size=8))
