"""What chains did: losses and acceptance along them, many runs in one panel."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llc.figures.estimates import trailing_mean
from llc.figures.style import COLOURS, crosses, legend, note, thinned
from llc.figures.tables import kind, names, numbers

MARKED = 8  # runs with a colour and a name of their own
SMOOTH = 0.05  # of a trace's looks, in the running mean of the acceptance


def loss_traces(ax: Axes, curves: pd.DataFrame, *, value: str = "loss_trace") -> None:
    """A line a run: the mean over its chains of the traced loss, against the step.

    `curves` is that of `llc.records`, with `directory`, `sgld_status` and `config.expt_name`. A
    trace that ends in NaN ends where its last number is, with a cross if the run diverged; labels
    tell what is not ok.
    """
    _lines(ax, curves, value)
    drawn = numbers(curves, value)
    if (drawn[np.isfinite(drawn)] > 0).all() and np.isfinite(drawn).any():
        ax.set_yscale("log")
    ax.set_ylabel("loss" if value == "loss_trace" else value)


def acceptance_traces(ax: Axes, curves: pd.DataFrame) -> None:
    """A line a run: the mean over its chains of the Metropolis probability of a step.

    Smoothed: the running mean over a twentieth of its looks.
    """
    _lines(ax, curves, "mala_acceptance_probs", SMOOTH)
    ax.set_ylim(-0.02, 1.02)
    ax.set_ylabel("acceptance (running mean)")


def mean_acceptances(ax: Axes, runs: pd.DataFrame) -> None:
    """Histogram over runs of the mean acceptance probability; the legend counts those without."""
    values = numbers(runs, "mala_acceptance_mean")
    found = values[np.isfinite(values)]
    if len(found):
        ax.hist(found, [k / 40 for k in range(41)], color=COLOURS[0], label=f"n = {len(found)}")
        ax.axvline(float(np.median(found)), color="black", ls="--", lw=0.8, label="median")
    else:
        note(ax, "no run has an acceptance")
    if missing := len(values) - len(found):
        crosses(ax, [], f"none recorded (n = {missing})")
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel("mean acceptance probability of a run")
    ax.set_ylabel("runs")
    legend(ax, loc="upper left")


def _lines(ax: Axes, curves: pd.DataFrame, value: str, smooth: float = 0.0) -> None:
    groups = list(curves.groupby(names(curves), sort=False))
    shown = 0
    for _, rows in groups:
        rows = rows.sort_values("t")
        steps, values = numbers(rows, "t"), numbers(rows, value)
        known = np.isfinite(values)
        if not known.any():
            continue
        steps, values = steps[known], values[known]
        values = trailing_mean(values, max(1, round(smooth * len(values))))
        where, colour = thinned(len(steps)), COLOURS[shown % len(COLOURS)]
        status = kind(rows["sgld_status"].iloc[0]) if "sgld_status" in rows else "ok"
        label = _name(rows) + ("" if status == "ok" else f": {status}")
        ax.plot(steps[where], values[where], lw=0.6, color=colour,
                label=label if shown < MARKED else None)  # fmt: skip
        if status == "diverged":
            ax.plot(steps[-1:], values[-1:], "x", ms=5, color=colour)
        shown += 1
    if not shown:
        note(ax, "no run has a trace")
    if len(groups) > shown:
        crosses(ax, [], f"no trace (n = {len(groups) - shown})")
    ax.set_xlabel("step")
    legend(ax)


def _name(rows: pd.DataFrame) -> str:
    """Of a run: its experiment where that is told, and its id."""
    first = rows.iloc[0]
    return f"{first.get('config.expt_name', 'run')} {first['id']}"
