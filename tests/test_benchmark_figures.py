"""The benchmark's panels draw what is there, also where there is little or nothing."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from llc import mixing
from llc.benchmark_figures import (
    Chains,
    autocorrelation,
    diagnostics_figure,
    ess_evolution,
    ranks,
    running_mean,
)

STEPS, BURN_IN = 200, 80


def chains(count=3, steps=STEPS, **changes):
    source = np.random.default_rng(0)
    draws = source.gamma(2.0, size=(count, steps))
    values = {
        "steps": np.arange(steps),
        "draws": draws,
        "num_burn_in": steps * BURN_IN // STEPS,
        "distance": np.sqrt(draws),
        "checked_steps": np.arange(0, steps, 2),
        "energy": source.normal(size=(count, len(range(0, steps, 2)))),
        "coordinates": source.normal(size=(count, steps, 4)),
    }
    return Chains(**(values | changes))


def with_nan(which):
    drawn = chains()
    for name in ("draws", "distance", "energy", "coordinates"):
        getattr(drawn, name)[which, 50:] = np.nan
    return drawn.finite()


def infinite_energy():
    drawn = chains()
    drawn.energy[1, -3] = np.inf
    return drawn


CASES = {
    "all well": chains,
    "one chain": lambda: chains(1),
    "a chain diverged": lambda: with_nan([1]),
    "all diverged": lambda: with_nan([0, 1, 2]),
    "two draws": lambda: chains(steps=2, num_burn_in=0),
    "no extras": lambda: chains(distance=None, checked_steps=None, energy=None, coordinates=None),
    "an infinite energy": infinite_energy,
    "checks in the burn-in only": lambda: chains(
        checked_steps=np.array([0]), energy=np.zeros((3, 1))
    ),
    "constant": lambda: chains(draws=np.ones((3, STEPS))),
    "many chains": lambda: chains(40, 50),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", [None, 2.0])
def test_every_case_is_drawn(case, target, tmp_path):
    diagnostics_figure(CASES[case](), target, case).savefig(tmp_path / "picture.png", dpi=50)
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_diverged_chains_are_left_out_and_told_of():
    drawn = with_nan([1])
    assert drawn.draws.shape == (2, STEPS)
    assert drawn.energy.shape[0] == drawn.coordinates.shape[0] == drawn.distance.shape[0] == 2
    assert "1 of 3 chains diverged" in diagnostics_figure(drawn, None, "run")._suptitle.get_text()
    assert diagnostics_figure(chains(), None, "run")._suptitle.get_text() == "run"


def test_running_means_end_at_the_estimates_per_chain():
    ax, drawn = Figure().subplots(), chains()
    running_mean(ax, drawn, 1.5)
    curves = ax.get_lines()
    ends = [line.get_ydata()[-1] for line in curves[:3]]
    assert ends == pytest.approx(drawn.draws[:, BURN_IN:].mean(1))
    assert curves[3].get_ydata()[0] == pytest.approx(drawn.draws[:, BURN_IN:].mean())
    assert curves[4].get_ydata()[0] == 1.5


def test_ranks_of_each_chain_average_to_one():
    ax, drawn = Figure().subplots(), chains(draws=np.random.default_rng(1).normal(size=(3, STEPS)))
    ranks(ax, drawn)
    heights = np.array([patch.get_data().values for patch in ax.patches])
    assert heights.mean(1) == pytest.approx(np.ones(3))
    assert heights.mean(0) == pytest.approx(np.ones(20))


def test_the_last_point_is_the_ess_of_all_kept_draws():
    ax, drawn = Figure().subplots(), chains()
    ess_evolution(ax, drawn)
    expected = mixing.ess(drawn.draws[None, :, BURN_IN:])[0]
    assert ax.get_lines()[0].get_ydata()[-1] == pytest.approx(expected)


def test_autocorrelation_is_one_at_lag_zero_and_that_of_the_chain():
    ax, drawn = Figure().subplots(), chains(1)
    autocorrelation(ax, drawn)
    own = drawn.draws[0, BURN_IN:]
    gaps = own - own.mean()
    values = ax.get_lines()[0].get_ydata()
    assert values[0] == 1
    assert values[3] == pytest.approx((gaps[3:] * gaps[:-3]).sum() / (gaps**2).sum())
