"""`estimate_one` against exact values; at one centre and at many; and when things go wrong."""

import itertools
import math

import numpy as np
import pytest
import torch
from oracles import (
    assert_vanishes,
    centred_tilts,
    cross_loss,
    normals,
    quadratic_loss,
    run_sgld,
)  # fmt: skip

import llc.companions
import llc.estimate
import llc.sampling.stacks
from llc.config import SGLDConfig
from llc.data import make_inputs, make_teacher
from llc.diagnostics import ess, excess
from llc.estimate import estimate_one, estimate_stack
from llc.models import mlp
from llc.models.dln import LinearLoss, product
from llc.models.mlp import MLPLoss
from llc.params import select, stack, unstack
from llc.sampling import sample
from llc.theory import quadratic_sgld, quadrature

# Five standard errors: false-fail below 1e-6 a comparison, the errors being good to 10 % at these
# effective sizes (4.5 σ: 7e-6).
SIGMAS = 5


def config(**options):
    defaults = {
        "epsilon": 0.01,
        "gamma": 1.0,
        "num_steps": 1000,
        "num_chains": 4,
        "batch_size": 1000,
    }
    return SGLDConfig(**(defaults | options))


def at_zero(dimension):
    return {"w": torch.zeros(dimension, dtype=torch.float64)}


@pytest.mark.parametrize(
    ("curvatures", "nbeta", "gamma", "epsilon"),
    [
        ([1.0], 10.0, 1.0, 0.1),
        ([1.0], 10.0, 1.0, 0.25),
        ([1.0, 0.5, 0.1], 50.0, 5.0, 0.02),
        ([1.0, 0.0, 0.0], 50.0, 20.0, 0.02),
        ([2.0] * 40, 100.0, 10.0, 0.01),
    ],
)
def test_quadratic_oracles_with_their_discretisation(curvatures, nbeta, gamma, epsilon):
    estimate = estimate_one(
        quadratic_loss(curvatures), at_zero(len(curvatures)), nbeta=nbeta, companions=False,
        sgld_config=config(
            epsilon=epsilon, gamma=gamma, num_steps=4000, num_chains=64, burn_in_prop=0.2
        ),
    )  # fmt: skip
    assert estimate.ess > 2000
    exact = quadratic_sgld(curvatures, nbeta, gamma, epsilon)
    assert abs(estimate.mean - exact) < SIGMAS * estimate.standard_error
    assert estimate.standard_error < 0.03 * exact
    assert (estimate.rhat, estimate.num_diverged_chains) == (pytest.approx(1, abs=0.05), 0)


def test_a_singular_loss_against_quadrature():
    nbeta, gamma, epsilon = 40.0, 4.0, 1e-3
    exact = quadrature(lambda w: np.prod(w * w, axis=-1), nbeta, gamma, 2)
    estimate = estimate_one(
        cross_loss(), at_zero(2), nbeta=nbeta, companions=False,
        sgld_config=config(
            epsilon=epsilon, gamma=gamma, num_steps=8000, num_chains=300, burn_in_prop=0.5
        ),
    )  # fmt: skip
    assert estimate.ess > 1000
    error = abs(estimate.mean - exact)
    assert error < SIGMAS * estimate.standard_error + estimate.step_size_bias
    assert estimate.standard_error + estimate.step_size_bias < 0.05 * exact


def test_moments_from_a_bad_start():
    nbeta, gamma, epsilon, h = 10.0, 1.0, 0.05, [1.0, 0.3]
    a = [nbeta * x + gamma for x in h]
    trace = run_sgld(
        quadratic_loss(h), nbeta=nbeta, gamma=gamma, epsilon=epsilon, chains=200, num_steps=2000,
        start={"w": 3 + normals(200, 2)}, distances=True,
    )  # fmt: skip
    assert excess(trace, nbeta)[:, 0].mean() > 50
    kept = trace.distance[:, 500:].square().numpy()  # the start fades as exp(−25 a/…) < 1e-20
    variances = [1 / (x * (1 - epsilon * x / 4)) for x in a]
    assert ess(kept) > 5000
    assert_vanishes(kept - sum(variances), SIGMAS)
    spread = sum(2 * v * v for v in variances)
    assert_vanishes((kept - sum(variances)) ** 2 - spread, SIGMAS)


@pytest.mark.slow
def test_reduced_rank_regression():
    widths, num = (5, 4, 5), 100_000
    source = torch.Generator().manual_seed(0)
    teacher = make_teacher("aligned_rank", widths, source, torch.float64, rank=2)
    inputs = make_inputs("unit_ball", num, 5, source, torch.float64).mul_(7**0.5)  # unit variance
    loss = LinearLoss(inputs, product(teacher.params), widths)
    estimate = estimate_one(
        loss, teacher.params, nbeta=num / math.log(num),
        sgld_config=config(
            epsilon=4e-6, num_steps=150_000, num_chains=8, batch_size=num, burn_in_prop=0.25
        ),
    )  # fmt: skip
    exact = float(teacher.coefficient().value)
    print(
        f"λ = {exact}, λ̂ = {estimate.mean:.3f} ± {estimate.standard_error:.3f}: {estimate.status}"
    )
    assert exact == 10.5
    assert abs(estimate.mean - exact) < max(0.03 * exact, 4 * estimate.standard_error)
    assert estimate.standard_error < 0.01 * exact
    # Two companions have a tenth of the draws: their gap alone may ask for longer chains.
    assert estimate.ok or estimate.status.startswith("not converged: chains cooled from above")
    assert estimate.init_loss == 0


WIDTHS = (3, 4, 2)


def mlp_problem(targets=1, n=50):
    source = torch.Generator().manual_seed(0)
    centres = stack([mlp.init(WIDTHS, source, torch.float64) for _ in range(3)])
    answers = normals(targets, n, 2, seed=1)
    return centres, normals(n, 3), answers if targets > 1 else answers[0]


@pytest.mark.parametrize("shared", [False, True])
def test_many_centres_are_each_centre_alone(shared):
    centres, inputs, answers = mlp_problem()
    loss = MLPLoss(inputs, answers, WIDTHS)
    held = [*centres.values(), inputs, answers]
    before = [tensor.clone() for tensor in held]
    options = {
        "nbeta": 5.0, "distances": True,
        "sgld_config": config(
            epsilon=1e-3, gamma=3.0, num_steps=160, batch_size=8, shared_batches=shared
        ),
    }  # fmt: skip
    seeds = [11, 5, 8]
    together = estimate_stack(loss, centres, seeds=seeds, **options)
    assert all(torch.equal(one, two) for one, two in zip(held, before, strict=True))
    for i, seed in enumerate(seeds):
        alone = estimate_one(loss, unstack(centres, i), seed=seed, **options)
        for name in ("loss", "baseline", "distance", "acceptance", "centre_loss"):
            one, two = getattr(alone.trace, name), getattr(together[i].trace, name)
            # A few hundred roundings of float64, no chaos at this ε.
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
        for name in ("mean", "standard_error", "cooled_mean", "step_size_bias", "ess", "init_loss"):
            assert getattr(alone, name) == pytest.approx(getattr(together[i], name), rel=1e-6)
        assert alone.status.split(":")[0] == together[i].status.split(":")[0]


def test_each_centre_may_have_targets_of_its_own():
    """As documented: targets with a leading axis of S entries."""
    centres, inputs, answers = mlp_problem(targets=3)
    options = {"nbeta": 5.0, "sgld_config": config(epsilon=1e-3, num_steps=60, batch_size=8)}
    each = MLPLoss(inputs, answers, WIDTHS)
    together = estimate_stack(each, centres, seeds=[1, 2, 3], **options)
    for i in range(3):
        alone = MLPLoss(inputs, answers[i], WIDTHS)
        own = estimate_stack(alone, select(centres, slice(i, i + 1)), seeds=[i + 1], **options)
        assert together[i].mean == pytest.approx(own[0].mean, rel=1e-8)
        assert together[i].cooled_mean == pytest.approx(own[0].cooled_mean, rel=1e-8)


def test_companions_are_heated_and_cooled_and_go_on_where_they_were(monkeypatch):
    calls = []

    def spy(posterior, build, schedule, streams, *, start=None, **_):
        trace = sample(posterior, build, schedule, streams, start=start)
        noise = build(posterior).noise.scale ** 2
        calls.append((posterior.nbeta, noise, schedule.num_steps, streams, start, trace.last))
        return trace

    monkeypatch.setattr(llc.sampling.stacks, "sample", spy)
    estimate_one(quadratic_loss([1.0]), at_zero(1), nbeta=16.0, sgld_config=config(epsilon=1e-3))
    # ε·steps/4·γ = 1e-3·1000/4·γ is far beyond REACH/16, so that the least heat is enough.
    heats = [1, 16, 8, 4, 2, 1]
    assert [call[0] for call in calls] == pytest.approx([16.0 / heat for heat in heats])
    assert [call[1] for call in calls] == pytest.approx([1e-3 * heat for heat in heats])
    lengths = [round(1000 * share) for _, share in llc.companions.COOLING]
    assert [call[2] for call in calls] == [1000, *lengths]
    assert calls[0][4] is calls[1][4] is None
    assert all(after[4] is before[5] for before, after in itertools.pairwise(calls[1:]))
    names = [stream for call in calls for stream in call[3]]
    assert len(set(names)) == len(names) == 4 + 2 * len(lengths)


def test_seeds_matter_and_repeat():
    def mean(seed):
        return estimate_one(
            quadratic_loss([1.0]), at_zero(1), nbeta=10.0, sgld_config=config(), seed=seed
        ).mean

    assert mean(1) == mean(1)
    assert mean(1) != mean(2)


def test_a_step_beyond_the_stability_limit_is_a_status():
    h, nbeta = [1.0, 0.1], 10.0
    for share, diverged in ((0.9, False), (1.1, True)):
        estimate = estimate_one(
            quadratic_loss(h), at_zero(2), nbeta=nbeta,
            sgld_config=config(epsilon=share * 4 / 11, num_steps=20_000),
        )  # fmt: skip
        assert estimate.status.startswith("diverged at step ") == diverged
        assert math.isnan(estimate.mean) == diverged
    steps = estimate.trace.diverged_at
    assert f"diverged at step {int(steps.min())}: 4 of 4 chains" in estimate.status
    assert estimate.num_diverged_chains == 4
    assert estimate.trace.chain_steps < 4 * 2000  # |ρ| = 1.2: a hundred steps to run away


def test_a_centre_that_is_no_minimum():
    centre = {"w": torch.ones(2, dtype=torch.float64)}
    estimate = estimate_one(
        quadratic_loss([1.0, 1.0]), centre, nbeta=50.0, sgld_config=config(num_steps=4000)
    )
    assert estimate.status.startswith("below the centre: ")
    assert estimate.init_loss == 1


def test_minibatch_noise_does_not_make_a_minimum_look_like_none():
    """L_B(w) < L_B(w*) on nearly half the batches where examples pull w* different ways."""
    loss = quadratic_loss([1.0], tilts=centred_tilts(1000, 1, 1.0))
    estimate = estimate_one(
        loss, at_zero(1), nbeta=100.0, companions=False,
        sgld_config=config(
            epsilon=8e-5, num_steps=20_000, num_chains=8, batch_size=10, burn_in_prop=0.2
        ),
    )  # fmt: skip
    assert abs(estimate.mean - 0.5) < 0.1
    assert not estimate.status.startswith("below the centre")


@pytest.mark.parametrize("num_steps", [2, 3, 10, 300])
def test_too_short_is_not_converged(num_steps):
    estimate = estimate_one(
        quadratic_loss([1.0, 1e-3]), at_zero(2), nbeta=100.0,
        sgld_config=config(epsilon=1e-3, num_steps=num_steps, burn_in_prop=0.0),
    )  # fmt: skip
    assert estimate.status.startswith("not converged: ")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_centre_that_is_not_finite_is_an_error(bad):
    with pytest.raises(ValueError, match="'w' has non-finite entries"):
        estimate_one(
            quadratic_loss([1.0]), {"w": torch.tensor([bad])}, nbeta=1.0, sgld_config=config()
        )
