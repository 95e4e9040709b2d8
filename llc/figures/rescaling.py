"""λ̂ of one function at rescaled parameters."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llc.figures.style import COLOURS, MARKS, band, crosses, legend, note
from llc.figures.tables import half_width

REPEATED = (0, 1, 5, 2)  # colours of modes, far from each other


def rescaling_figure(records: pd.DataFrame, title: str) -> Figure:
    """λ̂ against the scale s, a curve a mode; `records` as `rescaled_llcs` takes them."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    ax = figure.subplots()
    rescaled_llcs(ax, records)
    ax.set_title(title, fontsize=10)
    return figure


def rescaled_llcs(ax: Axes, records: pd.DataFrame, columns: int = 2) -> None:
    """Mean λ̂ over the repeats with 95 % bands (Student's t) against s, for every mode.

    A row of `records` has `mode`, `scale` and `lambdahat_per_chain`, a λ̂ a repeat and NaN (or None)
    where it diverged. Scales at which any did are crosses at the bottom, and say how many.
    `columns`: of the legend below the panel.
    """
    if records.empty:
        note(ax, "no records")
        return
    for k, (mode, rows) in enumerate(records.groupby("mode", sort=False)):
        rows = rows.sort_values("scale")
        scales = rows["scale"].to_numpy(dtype=np.float64)
        llcs = np.array(rows["lambdahat_per_chain"].to_list(), dtype=np.float64)
        repeats, failed = llcs.shape[1], ~np.isfinite(llcs)
        means, colour = llcs.mean(1), COLOURS[REPEATED[k % len(REPEATED)]]
        half = half_width(llcs, axis=1)
        band(ax, scales, means, half, colour)
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
            label = f"{mode}: diverged ({failed.sum()} of {failed.size} repeats)"
            crosses(ax, scales[lost], label, colour=colour, height=0.03 + 0.05 * k)
    ax.margins(y=0.2)  # room for the crosses below
    ax.set_xscale("log")
    ax.set_xlabel("scale s of layer 1")
    ax.set_ylabel("λ̂ (mean and 95 %)")
    legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns)
