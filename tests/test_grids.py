"""Grids are the estimates one by one, in a table and in a picture."""

from functools import cache
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from library_models import ROUNDING, SMALL, classifier, data, filled, numbers, source
from matplotlib.colors import to_hex
from oracles import SWAPPED_RANKS
from torch import nn

from llc import SamplerConfig, estimate_llc, grid, grid_figure
from llc.library import estimates, grids
from llc.library.places import shared_out
from llc.points import estimate_points

OPTIONS = {**{key: value for key, value in SMALL.items() if key != "epsilon"}, "num_chains": 2}
AXES = ("epsilon", "gamma", "nbeta")
LISTS = ((1e-4, 3e-4), (0.2, 20.0), (5.0, 9.0))


def exact_classifier():
    return classifier(torch.float64)


def points_at_once(monkeypatch):
    """Notes how many points run together."""
    counts = []

    def noting(loss, centre, points, **rest):
        counts.append(len(points))
        return estimate_points(loss, centre, points, **rest)

    monkeypatch.setattr(estimates, "estimate_points", noting)
    return counts


def given():
    return data(dtype=torch.float64)


@cache
def on_their_own(params):
    """The estimate at each point, chain after chain through the plain module."""
    points = [dict(zip(AXES, values, strict=True)) for values in product(*LISTS)]
    options = {**OPTIONS, "companions": True, "seed": 3, "params": params, "engine": "plain"}
    return [estimate_llc(exact_classifier(), given(), **options, **point) for point in points]


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"engine": "vmap"}, [8]),
        ({"engine": "plain", "params": ("0.*", "4.bias")}, [8]),
        ({"engine": "vmap", "chains_per_stack": 7}, [2, 3, 3]),
        ({"engine": "plain", "chains_per_stack": 3}, []),
        ({"engine": "plain", "devices": ["cpu"] * 3}, [8]),  # stacks of 6, 6 and 4 chains
        ({"engine": "plain", "chains_per_stack": 2, "devices": ["cpu"] * 2}, [2, 2, 2, 2]),
    ],
)
def test_a_point_is_the_estimate_on_its_own(options, counts, monkeypatch):
    """However many run together; in float64, where rounding (ROUNDING) changes no word."""
    at_once = points_at_once(monkeypatch)
    epsilons, gammas, nbetas = LISTS
    table = grid(
        exact_classifier(), given(), epsilon=epsilons, gamma=gammas, nbeta=np.array(nbetas),
        seed=3, **{**OPTIONS, "companions": True}, **options,
    )  # fmt: skip
    assert at_once == counts
    alone = on_their_own(options.get("params"))
    for row, own, point in zip(table.to_dict("records"), alone, product(*LISTS), strict=True):
        assert tuple(row[name] for name in AXES) == point
        assert (row["status"], row["ok"]) == (own.status, own.ok)
        for column, name in grids.COLUMNS.items():
            if column not in ("status", "ok"):
                within = SWAPPED_RANKS if column == "rhat" else ROUNDING["rtol"]
                expected = pytest.approx(getattr(own, name), rel=within, nan_ok=True)
                assert row[column] == expected, column
        assert row["seconds"] > 0


def test_a_point_that_diverges_leaves_the_others_alone():
    options = {**OPTIONS, "engine": "plain"}
    table = grid(exact_classifier(), given(), epsilon=[1e-4, 1e4], **options)
    fine, bad = (
        estimate_llc(exact_classifier(), given(), epsilon=epsilon, **options)
        for epsilon in (1e-4, 1e4)
    )
    assert table["llc_mean"][0] == pytest.approx(fine.mean, rel=ROUNDING["rtol"])
    assert np.isnan(table["llc_mean"][1])
    assert list(table["status"]) == [fine.status, bad.status]
    assert "diverged" in bad.status


@pytest.mark.parametrize(
    ("options", "epsilons", "count"),
    [
        ({"num_draws": 1000, "num_chains": 1}, ["auto", 1e-4, 3e-4], 2),
        ({"sampler": "sghmc"}, [1e-4, 3e-4], 0),
        ({"sampler": SamplerConfig(preconditioner="rmsprop")}, [1e-4, 3e-4], 0),
    ],
)
def test_what_cannot_share_a_stack_runs_on_its_own(options, epsilons, count, monkeypatch):
    at_once = points_at_once(monkeypatch)
    options = {**OPTIONS, "engine": "plain", **options}
    table = grid(exact_classifier(), given(), epsilon=epsilons, **options)
    assert at_once == [count] * (count > 0)
    alone = [estimate_llc(exact_classifier(), given(), epsilon=one, **options) for one in epsilons]
    assert list(table["epsilon"]) == [own.epsilon for own in alone]
    for row, own in zip(table.to_dict("records"), alone, strict=True):
        assert row["llc_mean"] == pytest.approx(own.mean, rel=ROUNDING["rtol"])


def test_networks_that_fill_a_stack_run_one_point_after_the_other(monkeypatch):
    at_once = points_at_once(monkeypatch)
    inputs = numbers(20, 300)
    wide = filled(nn.Sequential(nn.Linear(300, 2800), nn.Tanh(), nn.Linear(2800, 3)))
    pair = inputs, torch.randint(3, (20,), generator=source())
    options = {**OPTIONS, "num_draws": 4, "engine": "plain"}
    table = grid(wide, pair, epsilon=[1e-6, 2e-6], **options)
    assert at_once == []
    assert table["llc_mean"].notna().all()
    grid(wide, pair, epsilon=[1e-6, 2e-6], chains_per_stack=4, **options)
    assert at_once == [2]


def test_points_are_shared_out_evenly():
    assert shared_out([True] * 5, 9) == [[0, 1, 2, 3, 4]]
    assert shared_out([True, False, True, True, True], 2) == [[0, 2], [3, 4], [1]]
    assert shared_out([True] * 4, 3) == [[0, 1], [2, 3]]
    assert shared_out([True] * 2, 0) == [[0], [1]]
    assert shared_out([False] * 2, 9) == [[0], [1]]


def test_values_may_stand_alone_and_nbeta_is_the_usual_one():
    table = grid(classifier(), data(), epsilon=1e-4, **OPTIONS)
    assert len(table) == 1
    assert table["nbeta"][0] == 60 / np.log(60)
    assert table["gamma"][0] == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": [1e-4, -1.0]}, "epsilon=-1.0"),
        ({"epsilon": 1e-4, "gamma": [1.0, -2.0]}, "gamma=-2.0"),
        ({"epsilon": 1e-4, "nbeta": [0.0]}, "nbeta=0.0"),
        ({"epsilon": []}, "epsilon: is empty"),
        ({"epsilon": 1e-4, "drws": 3}, "drws: is no option of estimate_llc"),
        ({"epsilon": 1e-4, "observables": {"some": data()}}, "observables: a grid has no column"),
    ],
)
def test_a_bad_point_is_refused_before_the_first_runs(arguments, message, monkeypatch):
    monkeypatch.setattr(estimates, "copied", lambda *_: pytest.fail("work started"))
    with pytest.raises((ValueError, TypeError), match=message):
        grid(classifier(), data(), **arguments)


def some_table():
    rows = [
        {"epsilon": e, "gamma": g, "nbeta": b, "llc_mean": 10 * e + g + b, "ok": e < 0.1}
        for e in (0.01, 0.03, 0.1)
        for g in (1.0, 10.0)
        for b in (5.0, 20.0)
    ]
    table = pd.DataFrame(rows)
    table.loc[table["epsilon"] == 0.1, "llc_mean"] = np.nan
    return table


def test_a_figure_has_a_panel_for_each_nbeta_and_marks_what_is_not_ok():
    table = some_table()
    figure = grid_figure(table)
    *panels, bar = figure.axes
    assert [panel.get_title() for panel in panels] == ["nβ = 5", "nβ = 20"]
    for panel, nbeta in zip(panels, (5.0, 20.0), strict=True):
        rows = table[table["nbeta"] == nbeta].pivot_table(
            "llc_mean", "gamma", "epsilon", dropna=False
        )
        shown = panel.images[0].get_array().filled(np.nan)
        np.testing.assert_array_equal(shown, rows.to_numpy())
        crosses = [line for line in panel.lines if line.get_marker() == "x"]
        assert [round(float(line.get_xdata()[0])) for line in crosses] == [2, 2]
        assert [text.get_text() for text in panel.texts].count("–") == 2
        assert panel.images[0].get_clim() == (6.1, 30.3)
        assert panel.images[0].cmap.name == "cividis"
        assert to_hex(crosses[0].get_color()) == "#d55e00"
    assert "λ̂" in bar.get_ylabel()


def test_a_figure_of_points_of_which_none_is_to_be_trusted():
    table = some_table().assign(ok=False)
    assert grid_figure(table).axes[0].images[0].get_clim()[1] < 31
    table["llc_mean"] = np.nan
    grid_figure(table)
    with pytest.raises(ValueError, match="value='lambda': the table has epsilon, gamma"):
        grid_figure(table, "lambda")


def test_a_sampler_without_epsilon_has_one_column():
    table = some_table().query("epsilon == 0.01").assign(epsilon=np.nan)
    assert grid_figure(table).axes[0].images[0].get_array().shape == (2, 1)
