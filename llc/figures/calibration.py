"""How a step size was found: the short runs behind `epsilon=auto`, and λ̂ by any setting."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llc.figures.style import COLOURS, SYMBOLS, crosses, few_labels, legend, note, small
from llc.figures.tables import is_ok, numbers, without


def calibration_figure(looks: pd.DataFrame, epsilon: float, title: str) -> Figure:
    """λ̂, and what bounds ε, against the ε of each look of `llc.calibrate`; a line at the choice."""
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    llc_by_step(top, looks)
    bounds_by_step(bottom, looks)
    for ax in (top, bottom):
        ax.axvline(epsilon, color="black", ls="--", lw=1, zorder=0)
    top.set_title(f"{title}: ε = {epsilon:g}", fontsize=10)
    return figure


def llc_by_step(ax: Axes, looks: pd.DataFrame) -> None:
    """λ̂ ± 1.96 SE against ε; hollow and numbered in their order: the climb."""
    for stage, face in (("climb", "white"), ("check", COLOURS[0])):
        rows = looks[looks["stage"] == stage]
        ax.errorbar(
            rows["epsilon"],
            rows["llc"],
            yerr=1.96 * rows["llc_se"],
            fmt="o",
            ms=5,
            color=COLOURS[0],
            markerfacecolor=face,
            label=stage,
        )
    for turn, row in looks[looks["stage"] == "climb"].reset_index(drop=True).iterrows():
        if np.isfinite(row["llc"]):
            place = (row["epsilon"], row["llc"])
            ax.annotate(
                str(turn + 1), place, (5, 5), textcoords="offset points", fontsize=small(ax)
            )
    ax.set_ylabel("λ̂ of a short run")
    legend(ax, loc="lower right")


def bounds_by_step(ax: Axes, looks: pd.DataFrame) -> None:
    """The step's bias as a share of λ̂, and the share of its moves that MALA would reject."""
    rows = looks.sort_values("epsilon")
    freed = (rows["llc"] - rows["bias"]).where(lambda level: level > 0)
    shares = {"bias / λ̂": rows["bias"] / freed, "1 − acceptance": 1 - rows["acceptance"]}
    for (name, values), colour in zip(shares.items(), (COLOURS[5], COLOURS[2]), strict=True):
        drawn = 100 * values.where(values > 0)
        if drawn.notna().any():
            ax.loglog(rows["epsilon"], drawn, "o-", ms=4, lw=1, color=colour, label=name)
    ax.set_xscale("log")
    few_labels(ax.xaxis)
    ax.set_xlabel("ε")
    ax.set_ylabel("per cent")
    legend(ax)


def llc_by_setting(ax: Axes, table: pd.DataFrame, setting: str, *, log: bool = True) -> None:
    """λ̂ ± 1.96 SE against a column of `table`, such as `gamma`; hollow: not `ok`.

    A row has `llc`, `llc_se` and `status` beside the setting. Those without λ̂ are crosses below.
    """
    x, llcs, errors = (numbers(table, name) for name in (setting, "llc", "llc_se"))
    okay, lost = is_ok(table, "status"), ~np.isfinite(llcs)
    for chosen, face, label in (
        (okay, COLOURS[0], "ok"),
        (~okay & ~lost, "white", "not ok"),
    ):
        if chosen.any():
            ax.errorbar(x[chosen], llcs[chosen], 1.96 * errors[chosen], fmt="o", ms=4, lw=1,
                        color=COLOURS[0], markerfacecolor=face,
                        label=f"{label} (n = {chosen.sum()})")  # fmt: skip
    if lost.any():
        states = pd.DataFrame({"sgld_status": table["status"][lost]})
        crosses(ax, x[lost], without(states))
    if table.empty:
        note(ax, "nothing sampled")
    elif log:
        ax.set_xscale("log")
    ax.set_xlabel(SYMBOLS.get(setting, setting))
    ax.set_ylabel("λ̂")
    legend(ax)
