"""λ̂ along a training: of one run, and of sweeps with bands over their seeds."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from llc.figures.estimates import trailing_mean
from llc.figures.style import COLOURS, LOST, ORDERED, band, crosses, label_size, legend, note, small
from llc.figures.tables import half_width, names, numbers

RUNNING = 10  # checkpoints in the running mean of a training curve, where there are ten times that
LEAST_AND_MOST = {  # of what has such; a band of Student's t may reach beyond
    "test_accuracy": (0, 1.02),
    "train_accuracy": (0, 1.02),
    "train_loss": (0, None),
    "test_loss": (0, None),
}
LABELS = {
    "lambdahat": "λ̂",
    "test_accuracy": "test accuracy",
    "train_accuracy": "training accuracy",
    "train_loss": "training loss",
    "test_loss": "test loss",
}


def training_curve(
    steps: NDArray[np.int64],
    losses: NDArray[np.float64],
    llcs: NDArray[np.float64],
    title: str,
) -> Figure:
    """Training loss (log scale, left) and λ̂ with its running mean (right) against the step."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    left = figure.subplots()
    loss_and_llc(left, left.twinx(), steps, losses, llcs)
    left.set_title(title, fontsize=10)
    return figure


def loss_and_llc(
    left: Axes,
    right: Axes,
    steps: NDArray[np.int64],
    losses: NDArray[np.float64],
    llcs: NDArray[np.float64],
) -> None:
    """Training loss on `left`; λ̂ as crosses and its running mean on `right`, gaps where NaN."""
    found = np.isfinite(llcs)
    left.semilogy(steps, losses, color=COLOURS[0], lw=1.5)
    right.plot(steps, llcs, "x", ms=4, mew=0.8, alpha=0.6, color=COLOURS[1])
    window = RUNNING if found.sum() >= 10 * RUNNING else 1
    smooth = trailing_mean(llcs[found], window)
    right.plot(steps[found], smooth, color=COLOURS[5], lw=1.5)
    left.set_xlabel("training step")
    left.set_ylabel("training loss", color=COLOURS[0])
    label = "λ̂" if window == 1 else f"λ̂ (line: mean of the last {window})"
    right.set_ylabel(label, color=COLOURS[5])


def saddle_to_saddle(ax: Axes, curve: pd.DataFrame, status: object = None) -> None:
    """One run: training loss on the left, λ̂ and its running mean on a second axis to the right.

    `curve` has a row a checkpoint (`llc.records.curve`); those without λ̂ are crosses at the bottom.
    `status` is the run's `training_status`, told where training ended early.
    """
    if curve.empty:
        note(ax, "no checkpoint")
        return
    right = ax.twinx()
    right.tick_params(labelsize=small(ax))  # made outside `panels`, it has the default sizes
    right.yaxis.label.set_fontsize(label_size(ax))
    curve = curve.sort_values("t")
    steps, losses, llcs = (numbers(curve, name) for name in ("t", "train_loss", "lambdahat"))
    loss_and_llc(ax, right, steps.astype(np.int64), losses, llcs)
    ax.locator_params(axis="x", nbins=5)
    missing = ~np.isfinite(llcs)
    if missing.any():
        crosses(ax, steps[missing], f"no λ̂ at {missing.sum()} of {len(llcs)} checkpoints")
    if isinstance(status, str) and status != "ok":
        ax.set_title(f"training {status}", fontsize=small(ax), color=LOST, loc="right")
    legend(ax, loc="lower right")


def llc_curves(
    ax: Axes,
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    hue: str,
    value: str = "lambdahat",
    *,
    with_legend: bool = True,
) -> None:
    """`value` against the training step: mean over the runs of each `hue`, with 95 % bands.

    `runs` is the table of the runs, `curves` that of their checkpoints:
    `llc.records.curves(runs, "directory")`. A checkpoint where some run has no value is a cross on
    the mean of the others, or at the bottom where there are none; the legend says how many runs are
    not complete.
    """
    ordered = sorted(runs[hue].unique(), key=_order) if hue in runs else []
    for k, own in enumerate(ordered):
        members = runs[runs[hue].map(str) == str(own)]
        colour = ORDERED(k / max(1, len(ordered) - 1))
        table = _by_run(curves, members, value)
        count, complete = len(members), table.notna().sum(axis=1)
        short = int((~table.notna().all()).sum()) + count - table.shape[1]
        label = f"{_words(own)} (n = {count}{f', {short} incomplete' if short else ''})"
        steps, rows = table.index.to_numpy(), [row.dropna() for _, row in table.iterrows()]
        means = np.array([row.mean() for row in rows])
        half = np.array([half_width(row) if len(row) else np.nan for row in rows])
        ax.plot(steps, means, lw=1, color=colour, label=label)
        band(ax, steps, means, half, colour)
        partial = np.array(complete < count) & np.isfinite(means)
        ax.plot(steps[partial], means[partial], "x", ms=4, color=LOST)
        crosses(ax, steps[np.isnan(means)], "_of no run", height=0.03 + 0.05 * k)
    if not ordered or curves.empty:
        note(ax, "no checkpoint")
    ax.set_xlabel("training step")
    ax.set_ylabel(LABELS.get(value, value))
    if value in LEAST_AND_MOST and ordered:
        ax.set_ylim(*LEAST_AND_MOST[value])
    if with_legend:
        legend(ax, title=hue.rpartition(".")[2].replace("_", " "), title_fontsize=small(ax))


def _by_run(curves: pd.DataFrame, members: pd.DataFrame, value: str) -> pd.DataFrame:
    """Checkpoints down, runs across; NaN where a run has no (finite) value."""
    if curves.empty or value not in curves:
        return pd.DataFrame()
    rows = curves.assign(value=numbers(curves, value), run=names(curves, members))
    rows = rows[rows["run"].isin(names(members, curves))]
    if value == "train_loss":  # of the minibatch before: there is none at the start
        rows = rows[rows["t"] > 0]
    table = rows.pivot_table(index="t", columns="run", values="value", dropna=False)
    return table.replace([np.inf, -np.inf], np.nan)


def _order(value: object) -> tuple[int, float, str]:
    """Numbers by size, then words, and None first."""
    if value is None or value != value:
        return 0, 0.0, ""
    if isinstance(value, (int, float)):
        return 1, float(value), ""
    return 2, 0.0, str(value)


def _words(value: object) -> str:
    if value is None or value != value:
        return "none"
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
