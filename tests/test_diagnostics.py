"""λ̂, its error and its status: from draws with known properties, and from quadratic oracles."""

import math

import arviz as az
import numpy as np
import pytest
import torch
from oracles import centred_tilts, normals, quadratic_loss, run_sgld

from llc.diagnostics import (
    ess,
    excess,
    mean_and_error,
    rhat,
    share_below,
    summarise,
    to_inference_data,
)  # fmt: skip
from llc.posterior import LocalPosterior
from llc.samplers.mala import mala
from llc.sampling import Schedule, sample
from llc.streams import Stream
from llc.theory import quadratic_sgld
from llc.trace import Trace

NBETA = 4.0


def test_a_single_draw_has_a_mean_and_no_error():
    mean, error = mean_and_error(np.ones((1, 1)))
    assert mean == 1
    assert math.isnan(error)


def made(draws, *, norms=None, diverged=None, acceptance=0.9):
    """A trace with these nβ(L − L*) (C, T)."""
    draws = torch.as_tensor(np.asarray(draws), dtype=torch.float64)
    chains, count = draws.shape
    steps = torch.arange(count)
    checked = steps[::20]
    norms = torch.zeros(chains, len(checked)).double() if norms is None else norms
    dead = torch.full((chains,), -1) if diverged is None else torch.tensor(diverged)
    undefined = torch.full_like(norms, math.nan)
    return Trace(
        steps=steps, loss=0.5 + draws / NBETA, baseline=torch.full_like(draws, 0.5), distance=None,
        checked_steps=checked, acceptance=torch.full_like(norms, acceptance),
        squared_gradient=norms, energy=undefined, step_size=torch.full_like(norms, 1e-3),
        diverged_at=dead,
        centre_loss=torch.full((chains,), 0.5).double(), last={},
        chain_steps=chains * count, gradients=1.0, seconds=1.0,
    )  # fmt: skip


def noise(chains=4, count=2000, *, mean=1.0, sd=0.3, seed=0):
    return mean + sd * normals(chains, count, seed=seed).numpy()


def judged(draws, burn_in=0, epsilon=1e-3, cooled=None, **options):
    cooled = None if cooled is None else made(cooled)
    return summarise(made(draws, **options), NBETA, burn_in, epsilon, cooled)


def test_independent_draws_are_ok_and_the_numbers_are_theirs():
    draws = noise()
    draws[:, :1000] += 5
    estimate = judged(draws[:, 900:], 100, cooled=noise(2, 500, seed=1), norms=normals(4, 55).abs())
    kept = draws[:, 1000:]
    assert estimate.mean == pytest.approx(kept.mean(), rel=1e-12)
    assert estimate.per_chain == pytest.approx(kept.mean(1), rel=1e-12)
    assert estimate.all_draws == pytest.approx(draws[:, 900:].mean(), rel=1e-12)
    assert estimate.num_burn_in == 100
    # The error of independent draws is sd/√N; ESS varies by some 10 % around N.
    assert estimate.standard_error == pytest.approx(0.3 / math.sqrt(kept.size), rel=0.25)
    assert estimate.share_below == 0  # means of 20 draws: 15 deviations above zero
    assert estimate.acceptance == pytest.approx(0.9)
    assert estimate.init_loss == 0.5
    assert estimate.nbeta == NBETA
    assert estimate.num_diverged_chains == 0


def test_ok():
    norms = torch.full((4, 100), 8 * 0.01 / 1e-3).double()
    estimate = judged(noise(), cooled=noise(2, 500, seed=1), norms=norms)
    assert estimate.ok, estimate.status
    assert estimate.step_size_bias == pytest.approx(0.01)
    assert estimate.rhat == pytest.approx(1, abs=0.01)
    assert judged(noise()).ok  # without companions
    assert math.isnan(judged(noise()).cooled_mean)


@pytest.mark.parametrize(
    ("draws", "options", "words"),
    [
        (noise(count=20), {}, "ESS"),
        (noise(count=2), {}, "ESS"),
        (noise() + np.array([0, 0, 0, 0.5])[:, None], {}, "R-hat"),
        (noise() + np.linspace(0, 0.5, 2000), {}, "drift"),
        (noise() - np.linspace(0, 0.5, 2000), {}, "drift"),
        (noise(), {"cooled": noise(2, 500, mean=1.2)}, "cooled"),
        (noise(), {"cooled": noise(2, 500, mean=0.8)}, "cooled"),
        (noise(), {"norms": torch.full((4, 100), 8 * 0.02 / 1e-3).double()}, "the step biases"),
        (np.ones((4, 2000)) + np.eye(4)[:, :1], {}, "R-hat"),
    ],
)
def test_not_converged_and_why(draws, options, words):
    status = judged(draws, **options).status
    assert status.startswith("not converged: ")
    assert words in status


def test_an_unmeasured_step_size_bias_is_none():
    """Exact samplers report NaN: the companions are compared all the same."""
    unknown = torch.full((4, 100), math.nan).double()
    agreeing, other = made(noise(2, 500, seed=1)), made(noise(2, 500, mean=1.2))
    for cooled, ok in ((agreeing, True), (other, False)):
        missing = cooled._replace(
            squared_gradient=torch.full_like(cooled.squared_gradient, math.nan)
        )
        estimate = summarise(made(noise(), norms=unknown), NBETA, 0, 1e-3, missing)
        assert math.isnan(estimate.step_size_bias)
        assert math.isnan(estimate.cooled_bias)
        assert estimate.ok == ok, estimate.status
        assert ok or "cooled from above" in estimate.status


def frozen(chains, since=0):
    """Draws of four chains, some of which repeat themselves."""
    draws = noise()
    draws[chains, since:] = 1.0
    return draws


@pytest.mark.parametrize("acceptance", [0.0, math.nan])
def test_chains_that_stand_still_are_named(acceptance):
    status = judged(frozen([1, 3]), acceptance=acceptance).status
    assert status.startswith("not converged: 2 of 4 chains stand still (chain 1, 3): ")
    assert "warm-up" in status
    every = judged(frozen([0, 1, 2, 3]), acceptance=acceptance).status
    assert "4 of 4 chains stand still (chain 0, 1, 2, 3)" in every


def test_a_chain_that_jumps_once_in_a_while_stands_still_too():
    draws = frozen([2])
    draws[2, 1000:] = 1.1  # one change in 2000 draws
    assert "1 of 4 chains stand still (chain 2)" in judged(draws, acceptance=0.0005).status


def test_moves_in_the_burn_in_do_not_count():
    status = judged(frozen([1], 500), 500, acceptance=math.nan).status
    assert "1 of 4 chains stand still (chain 1)" in status


def test_chains_that_move_are_not_said_to_stand_still():
    assert "stand still" not in judged(frozen([1], 1990), acceptance=0.5).status  # rejected of late
    assert "stand still" not in judged(frozen([1]), acceptance=0.9).status  # the loss is flat
    assert judged(noise(), acceptance=0.0).ok  # SGLD far beyond what MALA would accept
    burnt = frozen([1])
    burnt[1, 500:] = noise()[1, 500:]
    assert "stand still" not in judged(burnt, 500, acceptance=math.nan).status


def test_frozen_samplers_are_reported():
    """MALA whose every proposal is rejected, through the whole chain of code."""
    posterior = LocalPosterior.around(
        quadratic_loss([1.0, 2.0]), {"w": torch.zeros(1, 2).double()}, 10.0, 1.0, 4
    )
    streams = [Stream(0, chain) for chain in range(4)]
    start = {"w": normals(4, 2)}
    for epsilon, still in ((1e6, True), (0.1, False)):
        trace = sample(
            posterior, lambda p, e=epsilon: mala(p, e), Schedule(400, 1000), streams, start=start
        )
        status = summarise(trace, 10.0, 40, epsilon).status
        assert ("4 of 4 chains stand still" in status) == still, status


def test_companions_that_diverged_are_no_support():
    cooled = noise(2, 500, seed=1)
    cooled[1, 100:] = np.nan
    estimate = judged(noise(), cooled=cooled)
    assert math.isnan(estimate.cooled_mean)
    assert estimate.status.startswith("not converged: ")


def test_share_below_counts_stretches():
    draws = np.ones((2, 1010))
    draws[0, :200] = -1  # 10 of the 2·50 stretches of 20; the last 10 draws fill none
    draws[1, ::20] = -18  # single draws far below, in stretches whose mean is above
    assert share_below(draws) == pytest.approx(0.1)


def test_below_the_centre():
    for draws in (noise(mean=-1.0), noise(mean=-0.05, sd=0.01)):
        assert judged(draws).status.startswith("below the centre: ")


def test_a_diverged_chain_is_said_and_the_mean_is_no_number():
    draws = noise()
    draws[2, 700:] = np.nan
    estimate = judged(draws, 500, diverged=[-1, -1, 700, -1])
    assert estimate.status.startswith("diverged at step 700: 1 of 4 chains")
    assert "try 0.0001" in estimate.status
    for value in (
        estimate.mean,
        estimate.standard_error,
        estimate.rhat,
        estimate.ess,
        estimate.drift,
    ):
        assert math.isnan(value)
    assert [math.isnan(value) for value in estimate.per_chain] == [False, False, True, False]
    assert estimate.num_diverged_chains == 1
    assert not estimate.ok


def test_statistics_that_do_not_exist_are_nan_and_raise_nothing():
    for draws in (np.ones((1, 2)), np.ones((4, 3)), np.full((2, 50), np.nan), np.ones((1, 1))):
        assert math.isnan(rhat(draws))
        assert math.isnan(ess(draws))
    for draws in (np.ones((4, 100)), np.ones((1, 100))):  # constant
        mean, error = mean_and_error(draws)
        assert mean == 1
        assert not error > 0
        assert not judged(draws).standard_error > 0
    assert math.isnan(mean_and_error(np.full((2, 50), np.inf))[1])


def test_one_chain_is_compared_with_itself():
    assert judged(noise(1)).ok
    split = noise(1)
    split[:, 1000:] += 1
    assert rhat(split) > 1.05
    assert rhat(noise(1, 2001)) < 1.01


def stationary(curvatures, *, chains, epsilon, nbeta=10.0, gamma=1.0, num_steps=500, seed=0):
    """SGLD from exact draws of its own stationary law, and the exact λ̂ of that law."""
    h = torch.as_tensor(curvatures, dtype=torch.float64)
    a = nbeta * h + gamma
    start = {"w": normals(chains, len(h), seed=seed + 99) / (a * (1 - epsilon * a / 4)).sqrt()}
    trace = run_sgld(
        quadratic_loss(h), nbeta=nbeta, gamma=gamma, epsilon=epsilon, chains=chains,
        num_steps=num_steps, seed=seed, start=start,
    )  # fmt: skip
    return excess(trace, nbeta), quadratic_sgld(h, nbeta, gamma, epsilon)


@pytest.mark.slow
def test_the_standard_error_is_honest():
    """800 repeats of four chains: the 95 % interval covers the exact value 91 to 98 times in 100.

    Were the coverage 95 % exactly, the test would fail once in 60,000: binomial(800, 0.95).
    """
    draws, exact = stationary([1.0, 0.5, 2.0], chains=3200, epsilon=0.05)
    covered = 0
    for group in draws.reshape(800, 4, -1):
        mean, error = mean_and_error(group)
        covered += abs(mean - exact) < 1.96 * error
    assert 0.91 * 800 <= covered <= 0.98 * 800


def test_effective_draws_are_those_of_the_autoregression():
    """ESS/N of w² of an AR(1) of coefficient ρ is (1 − ρ²)/(1 + ρ²)."""
    draws, _ = stationary([1.0], chains=64, epsilon=0.05, num_steps=2000)
    rho2 = (1 - 0.05 * 11 / 2) ** 2
    expected = draws.size * (1 - rho2) / (1 + rho2)
    # One error of the estimate is about √(2·cutoff/N) ≈ 2 % here; five of them.
    assert ess(draws) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("batch_size", [None, 10])
def test_the_step_size_bias_bounds_what_it_measures(batch_size):
    """In (ε/8)E‖∇U_B‖² the localisation counts too: at γ > 0 it is at least λ̂'s own bias."""
    nbeta, gamma, epsilon = 10.0, 1.0, 0.05
    tilts = centred_tilts(1000, 2, 0.3) if batch_size else None
    trace = run_sgld(
        quadratic_loss([1.0, 0.2], 1000, tilts), nbeta=nbeta, gamma=gamma, epsilon=epsilon,
        chains=400, num_steps=1500, batch_size=batch_size, period=5, full_data_trace=True,
    )  # fmt: skip
    bias = excess(trace, nbeta)[:, 300:].mean(1) - 0.5 * sum(
        nbeta * h / (nbeta * h + gamma) for h in (1.0, 0.2)
    )
    bound = epsilon / 8 * trace.squared_gradient[:, 60:].mean(1).numpy()
    gap = bound - bias
    assert bias.mean() > 5 * bias.std() / 20
    assert gap.mean() > -5 * gap.std() / 20


def test_inference_data_survives_netcdf(tmp_path):
    trace = run_sgld(
        quadratic_loss([1.0, 2.0]), nbeta=10.0, gamma=1.0, epsilon=0.01, chains=3, num_steps=90,
        thin=2, distances=True, period=20,
    )  # fmt: skip
    estimate = summarise(trace, 10.0, 10, 0.01)
    path = tmp_path / "traces.nc"
    to_inference_data(estimate).to_netcdf(str(path), engine="h5netcdf")
    data = az.from_netcdf(str(path), engine="h5netcdf")
    assert data.posterior["llc"].dims == ("chain", "draw")
    np.testing.assert_array_equal(data.posterior["draw"], trace.steps)
    np.testing.assert_array_equal(data.posterior["llc"], excess(trace, 10.0))
    assert data.posterior.attrs["nbeta"] == 10.0
    assert data.posterior.attrs["init_loss"] == 0.0
    stats = data.sample_stats
    for name in ("loss", "baseline", "distance", "acceptance", "squared_gradient", "diverged_at"):
        np.testing.assert_array_equal(stats[name], getattr(trace, name), err_msg=name)
    assert stats["acceptance"].dims == ("chain", "checked")
    np.testing.assert_array_equal(stats["checked"], trace.checked_steps)
    assert float(az.ess(data, var_names="llc", method="mean")["llc"]) > 0


def test_a_loss_without_slope_has_no_learning_coefficient():
    """L = L* everywhere: λ̂ is exactly zero, though the localisation has a step-size bias."""
    flat = judged(np.zeros((4, 2000)), norms=torch.ones(4, 100).double())
    assert flat.mean == flat.standard_error == 0
    assert flat.status.startswith("not converged: ")
    assert "the step biases λ̂" in flat.status
