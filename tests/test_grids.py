"""Grids are the estimates one by one, in a table and in a picture."""

import numpy as np
import pandas as pd
import pytest
from library_models import SMALL, classifier, data
from matplotlib.colors import to_hex

from llc import estimate_llc, grid, grid_figure
from llc.library import grids

OPTIONS = {**{key: value for key, value in SMALL.items() if key != "epsilon"}, "num_chains": 2}


def test_a_point_is_the_estimate_on_its_own():
    epsilons, gammas, nbetas = [1e-4, 3e-4], (1.0, 20.0), np.array([5.0, 9.0])
    table = grid(
        classifier(), data(), epsilon=epsilons, gamma=gammas, nbeta=nbetas, engine="plain",
        seed=3, **OPTIONS,
    )  # fmt: skip
    assert len(table) == 8
    assert list(table[["epsilon", "gamma", "nbeta"]].iloc[1]) == [1e-4, 1.0, 9.0]
    for row in table.to_dict("records"):
        point = {name: row[name] for name in ("epsilon", "gamma", "nbeta")}
        alone = estimate_llc(classifier(), data(), engine="plain", seed=3, **{**OPTIONS, **point})
        assert row["llc_mean"] == alone.mean
        assert row["standard_error"] == alone.standard_error
        assert row["status"] == alone.status
        assert row["ok"] == alone.ok


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
    ],
)
def test_a_bad_point_is_refused_before_the_first_runs(arguments, message, monkeypatch):
    monkeypatch.setattr(grids, "estimate_llc", lambda *_, num_draws=1, **__: pytest.fail("ran"))
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
