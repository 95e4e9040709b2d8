"""Figures draw what is there: also diverged chains, single draws and estimates that are not ok."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from oracles import quadratic_loss
from test_estimate import at_zero

from llc.config import SGLDConfig
from llc.estimate import estimate_one
from llc.figures import estimate_figure, signed_errors, trailing_mean, training_curve
from llc.reporting import report, summary


def estimate(epsilon=1e-2):
    config = SGLDConfig(
        epsilon=epsilon, gamma=1.0, num_steps=200, num_chains=3, batch_size=1000, burn_in_prop=0.5
    )
    return estimate_one(quadratic_loss([1.0, 2.0]), at_zero(2), nbeta=10.0, sgld_config=config)


def test_trailing_mean_ends_at_the_mean_of_the_window():
    values = np.arange(10.0)
    curve = trailing_mean(values, 4)
    assert curve[-1] == values[-4:].mean()
    assert curve[1] == values[:2].mean()
    assert curve[5] == values[2:6].mean()


def test_curves_end_at_the_estimates(tmp_path):
    result = estimate()
    figure = estimate_figure(result, 1.0, "two directions")
    curves = figure.axes[0].get_lines()
    ends = [line.get_ydata()[-1] for line in curves[: len(result.per_chain)]]
    assert ends == pytest.approx(result.per_chain)
    figure.savefig(tmp_path / "picture.png")


def test_diverged_estimate_is_drawn_and_reported(tmp_path):
    result = estimate(epsilon=10.0)
    assert result.num_diverged_chains == 3
    estimate_figure(result, 1.0, "diverged").savefig(tmp_path / "picture.png")
    text = report("λ̂", result, 1.0)
    assert text.startswith("λ̂ = none")
    assert "diverged at step" in text
    assert np.isnan(summary(result)["lambdahat"])


def test_a_training_curve_shows_loss_estimates_and_their_mean(tmp_path):
    steps, llcs = np.arange(0, 1200, 10), np.linspace(0, 3, 120)
    llcs[4] = np.nan  # a checkpoint whose chains diverged
    figure = training_curve(steps, np.geomspace(100, 1e-6, 120), llcs, "many checkpoints")
    left, right = figure.axes
    assert left.get_yscale() == "log"
    crosses, mean = right.get_lines()
    assert len(crosses.get_xdata()) == 120
    assert len(mean.get_xdata()) == 119
    assert mean.get_ydata()[-1] == pytest.approx(llcs[-10:].mean())
    assert mean.get_ydata()[5] == pytest.approx(np.nanmean(llcs[:7]))
    figure.savefig(tmp_path / "picture.png")


def test_few_checkpoints_are_joined_as_they_are():
    llcs = np.linspace(0, 3, 20)
    figure = training_curve(np.arange(20), np.geomspace(1, 0.1, 20), llcs, "few checkpoints")
    assert figure.axes[1].get_lines()[1].get_ydata() == pytest.approx(llcs)


@pytest.mark.parametrize("llcs", [[np.nan, np.nan], [1.0, np.nan]])
def test_a_training_curve_without_estimates(llcs, tmp_path):
    figure = training_curve(np.array([0, 10]), np.array([2.0, 1.0]), np.array(llcs), "none")
    figure.savefig(tmp_path / "picture.png")


def test_signed_errors_marks_what_is_not_ok():
    ax = Figure().subplots()
    okay = np.array([True, False, True])
    signed_errors(ax, ["a", "b", "c"], np.array([0.01, -0.4, 0.0]), np.full(3, 0.01), okay)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ok", "not ok"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
