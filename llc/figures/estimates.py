"""One estimate: the running λ̂ of its chains, and their losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from llc.figures.style import COLOURS, MAX_CHAINS, legend, thinned

if TYPE_CHECKING:  # figures of tables do without torch and ArviZ, which take seconds to load
    from llc.diagnostics import Estimate


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
    from llc.diagnostics import excess

    draws, steps = excess(estimate.trace, estimate.nbeta), estimate.trace.steps.numpy()
    window = draws.shape[1] - estimate.num_burn_in
    for chain in range(min(len(draws), MAX_CHAINS)):
        curve = trailing_mean(draws[chain], window)
        where = thinned(len(curve))
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
    legend(ax, loc="lower right")


def loss_trace(ax: Axes, estimate: Estimate) -> None:
    """The traced loss per chain, and L(w*) on the same examples (mean over chains)."""
    trace = estimate.trace
    steps, where = trace.steps.numpy(), thinned(trace.loss.shape[1])
    for chain in range(min(len(trace.loss), MAX_CHAINS)):
        colour = COLOURS[chain % len(COLOURS)]
        ax.plot(steps[where], trace.loss[chain, where], color=colour, lw=0.5, alpha=0.7)
    baseline = trace.baseline.nanmean(0)[where]
    ax.plot(steps[where], baseline, color="black", lw=1, label="L(w*)")
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    legend(ax, loc="upper right")


def trailing_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean of the last `window` values at each place; of all so far where there are fewer."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(total))
    starts = np.maximum(ends - window, 0)
    return np.asarray((total[ends] - total[starts]) / (ends - starts))
