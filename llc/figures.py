"""Pure functions from estimates and tables to matplotlib figures."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from llc.diagnostics import Estimate, excess

# Okabe & Ito's palette: told apart by readers with any colour vision, and in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MAX_POINTS = 1_000
MAX_CHAINS = 8
REPEATED, MARKS = (0, 1, 5, 2), "os^D"  # of modes: colours far from each other
RUNNING = 10  # checkpoints in the running mean of a training curve, where there are ten times that


def estimate_figure(estimate: Estimate, known: float | None, title: str) -> Figure:
    """λ̂ per chain along the trace (against λ where it is known), and the loss trace below."""
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    running_llc(top, estimate, known)
    loss_trace(bottom, estimate)
    top.set_title(title, fontsize=10)
    return figure


def running_llc(ax: Axes, estimate: Estimate, known: float | None) -> None:
    """Trailing mean of nβ(L(w_t) − L(w*)) per chain, over as many draws as the estimate keeps.

    The curves end at the per-chain estimates.
    """
    draws, steps = excess(estimate.trace, estimate.nbeta), estimate.trace.steps.numpy()
    window = draws.shape[1] - estimate.num_burn_in
    for chain in range(min(len(draws), MAX_CHAINS)):
        curve = trailing_mean(draws[chain], window)
        where = _thinned(len(curve))
        ax.plot(steps[where], curve[where], color=COLOURS[chain % len(COLOURS)], lw=1)
    if known is not None:
        ax.axhline(known, color="black", ls="--", lw=1, label=f"λ = {known:g}")
    if np.isfinite(estimate.mean):
        ax.errorbar(
            steps[-1],
            estimate.mean,
            yerr=1.96 * estimate.standard_error,
            fmt="o",
            ms=4,
            color="black",
            label=f"λ̂ = {estimate.mean:.4g} ± {estimate.standard_error:.2g}",
        )
    if estimate.num_burn_in:
        ax.axvspan(steps[0], steps[estimate.num_burn_in], color="0.93", zorder=0)
    ax.set_ylabel(f"λ̂ per chain\n(mean of {window:,} draws)")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower right", fontsize=8)


def loss_trace(ax: Axes, estimate: Estimate) -> None:
    """The traced loss per chain, and L(w*) on the same examples (mean over chains)."""
    trace = estimate.trace
    steps, where = trace.steps.numpy(), _thinned(trace.loss.shape[1])
    for chain in range(min(len(trace.loss), MAX_CHAINS)):
        colour = COLOURS[chain % len(COLOURS)]
        ax.plot(steps[where], trace.loss[chain, where], color=colour, lw=0.5, alpha=0.7)
    baseline = trace.baseline.nanmean(0)[where]
    ax.plot(steps[where], baseline, color="black", lw=1, label="L(w*)")
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    ax.legend(loc="upper right", fontsize=8)


def trailing_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean of the last `window` values at each place; of all so far where there are fewer."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(total))
    starts = np.maximum(ends - window, 0)
    return np.asarray((total[ends] - total[starts]) / (ends - starts))


def _thinned(length: int) -> NDArray[np.int64]:
    """At most MAX_POINTS places, both ends kept."""
    return np.unique(np.linspace(0, length - 1, min(length, MAX_POINTS)).astype(np.int64))


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
            ax.annotate(str(turn + 1), place, (5, 5), textcoords="offset points", fontsize=8)
    ax.set_ylabel("λ̂ of a short run")
    ax.legend(loc="lower right", fontsize=8)


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
    ax.set_xlabel("ε")
    ax.set_ylabel("per cent")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8)


def signed_errors(
    ax: Axes,
    labels: Sequence[str],
    errors: NDArray[np.float64],
    standard_errors: NDArray[np.float64],
    okay: NDArray[np.bool_],
) -> None:
    """Signed relative errors λ̂/λ − 1 with 95 % intervals, one row a network; hollow: not `ok`."""
    rows = np.arange(len(labels))[::-1]
    for chosen, face, name in ((okay, COLOURS[0], "ok"), (~okay, "white", "not converged")):
        if chosen.any():
            ax.errorbar(
                100 * errors[chosen],
                rows[chosen],
                xerr=196 * standard_errors[chosen],
                fmt="o",
                ms=5,
                color=COLOURS[0],
                markerfacecolor=face,
                label=name,
            )
    ax.axvline(0, color="black", lw=1)
    ax.axvspan(-3, 3, color="0.93", zorder=0)
    ax.set_yticks(rows, labels, fontsize=8)
    ax.set_xlabel("λ̂/λ − 1, per cent (grey: ±3 %)")
    ax.legend(fontsize=8)


def rescaling_figure(records: pd.DataFrame, title: str) -> Figure:
    """λ̂ against the scale s, a curve a mode; `records` as `rescaled_llcs` takes them."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    ax = figure.subplots()
    rescaled_llcs(ax, records)
    ax.set_title(title, fontsize=10)
    return figure


def rescaled_llcs(ax: Axes, records: pd.DataFrame) -> None:
    """Mean λ̂ over the repeats with 95 % bands (Student's t) against s, for every mode.

    A row of `records` has `mode`, `scale` and `lambdahat_per_chain`, a λ̂ a repeat and NaN (or None)
    where it diverged. Scales at which any did are crosses at the bottom, and say how many.
    """
    for k, (mode, rows) in enumerate(records.groupby("mode", sort=False)):
        rows = rows.sort_values("scale")
        scales = rows["scale"].to_numpy(dtype=np.float64)
        llcs = np.array(rows["lambdahat_per_chain"].to_list(), dtype=np.float64)
        repeats, failed = llcs.shape[1], ~np.isfinite(llcs)
        means, colour = llcs.mean(1), COLOURS[REPEATED[k % len(REPEATED)]]
        half = np.full(len(means), np.nan)  # a single repeat tells nothing of its error
        if repeats > 1:
            half = stats.t.ppf(0.975, repeats - 1) * llcs.std(1, ddof=1) / repeats**0.5
        ax.fill_between(scales, means - half, means + half, color=colour, alpha=0.25, lw=0)
        ax.errorbar(
            scales,
            means,
            yerr=half,
            fmt=f"{MARKS[k % len(MARKS)]}-",
            ms=4 + 3 * (k % 2),  # every other mode hollow around its neighbours' marks
            markerfacecolor="none" if k % 2 else colour,
            lw=1,
            color=colour,
            label=f"{mode} (n = {repeats} a point)",
        )
        lost = failed.any(1)
        if lost.any():
            ax.plot(
                scales[lost],
                np.full(lost.sum(), 0.03 + 0.05 * k),
                "x",
                ms=5,
                color=colour,
                label=f"{mode}: diverged ({failed.sum()} of {failed.size} repeats)",
                transform=ax.get_xaxis_transform(),
            )
    ax.margins(y=0.2)  # room for the crosses below
    ax.set_xscale("log")
    ax.set_xlabel("scale s of layer 1")
    ax.set_ylabel("λ̂ (mean and 95 %)")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
