"""Deep linear networks: λ̂ against λ, with the runs that have no λ̂."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, to_rgba
from numpy.typing import NDArray

from llc.figures.style import (
    COLOURS,
    LOST,
    ORDERED,
    crosses,
    few_labels,
    label_size,
    legend,
    note,
    small,
)
from llc.figures.tables import Array, is_ok, numbers, without

TRUTHS = {
    "true_local_lambda": "λ at w*",
    "true_lambda": "λ of the most singular parameter",
}
LINEAR = 10.0  # per cent: smaller errors on a linear scale, larger ones on a logarithmic one
TICKS = (-1000, -100, -30, -10, 0, 10, 30, 100, 1000)


class Estimates(NamedTuple):
    """λ̂ and λ of every run, a value each; NaN where there is none."""

    runs: pd.DataFrame
    llc: Array
    error: Array  # standard
    truth: Array
    okay: NDArray[np.bool_]
    dimension: Array  # number of parameters
    at: str
    known: str

    @classmethod
    def of(cls, runs: pd.DataFrame, at: str, known: str) -> "Estimates":
        return cls(
            runs,
            numbers(runs, f"{at}lambdahat"),
            numbers(runs, f"{at}lambdahat_se"),
            numbers(runs, known),
            is_ok(runs, f"{at}sgld_status"),
            numbers(runs, "model_dim"),
            at,
            known,
        )

    @property
    def comparable(self) -> NDArray[np.bool_]:
        """Which have both, and λ > 0."""
        return np.isfinite(self.llc) & (self.truth > 0)


def llc_against_lambda(
    ax: Axes,
    runs: pd.DataFrame,
    *,
    at: str = "",
    known: str = "true_local_lambda",
    log: bool = True,
    colour_bar: bool = True,
) -> None:
    """λ̂ ± 1.96 SE against λ, a point a run, coloured by the number of parameters.

    Filled: `ok`. `at` comes before the names of λ̂'s columns (`trained_param_info.`), `known` is the
    column with λ. Crosses at the bottom: runs with λ and no λ̂, or with none above 0 where `log`;
    the legend counts them and all that cannot be placed.
    """
    own = Estimates.of(runs, at, known)
    drawn = own.comparable & ((own.llc > 0) | (not log))
    if drawn.any():
        low, high = own.truth[drawn].min(), own.truth[drawn].max()
        ends = (low / 1.5, high * 1.5) if log else (0, 1.1 * high)
        ax.plot(ends, ends, color="black", lw=0.8, zorder=0, label="λ̂ = λ")
        if log:
            ax.set_xscale("log")
            ax.set_yscale("log")
    _points(ax, own, own.llc, own.error, drawn, colour_bar)
    below = own.comparable & ~drawn
    if below.any():
        label = f"λ̂ ≤ 0 (n = {below.sum()})"
        crosses(ax, own.truth[below], label, colour=COLOURS[3], height=0.08)
    if not log:
        ax.locator_params(nbins=5)
    _finish(ax, own)
    ax.set_ylabel("λ̂")


def relative_errors(
    ax: Axes,
    runs: pd.DataFrame,
    *,
    at: str = "",
    known: str = "true_local_lambda",
    log: bool = True,
    colour_bar: bool = True,
) -> None:
    """Signed relative errors λ̂/λ − 1 against λ, which log-log axes hide; arguments as there.

    The scale is linear up to 10 % and logarithmic from there on; grey: ±3 %.
    """
    own = Estimates.of(runs, at, known)
    drawn = own.comparable
    scale = np.where(drawn, own.truth, np.nan)
    errors = 100 * (own.llc / scale - 1)
    _points(ax, own, errors, 100 * own.error / scale, drawn, colour_bar)
    ax.axhline(0, color="black", lw=0.8, zorder=0)
    ax.axhspan(-3, 3, color="0.93", zorder=-1)
    ax.set_yscale("symlog", linthresh=LINEAR)
    found = np.append(errors[drawn], 0)
    ax.set_ylim(min(-2 * LINEAR, 1.6 * found.min()), max(2 * LINEAR, 1.6 * found.max()))
    low, high = ax.get_ylim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    ax.set_yticks(ticks, [f"{tick:+d}".replace("-", "−") if tick else "0" for tick in ticks])
    ax.minorticks_off()
    if log and drawn.any():
        ax.set_xscale("log")
    else:
        ax.locator_params(axis="x", nbins=5)
    _finish(ax, own)
    ax.set_ylabel("λ̂/λ − 1, per cent")


def multiplicities(ax: Axes, runs: pd.DataFrame) -> None:
    """How many runs have which multiplicity of λ; those that did not come to tell are a bar too."""
    values = numbers(runs, "true_multiplicity")
    found, counts = np.unique(values[np.isfinite(values)].astype(int), return_counts=True)
    names, heights = [str(value) for value in found], [int(count) for count in counts]
    colours = [COLOURS[0]] * len(names)
    if unknown := int(np.isnan(values).sum()):
        names, heights, colours = [*names, "not\nrecorded"], [*heights, unknown], [*colours, LOST]
    if names:
        bars = ax.bar(names, heights, color=colours)
        ax.bar_label(bars, fontsize=label_size(ax))
    else:
        note(ax, "no runs")
    ax.margins(y=0.15)
    ax.set_xlabel("multiplicity of λ")
    ax.set_ylabel("runs")


def _points(
    ax: Axes,
    own: Estimates,
    heights: Array,
    errors: Array,
    drawn: NDArray[np.bool_],
    colour_bar: bool,
) -> None:
    """A mark a run with 95 % bars, filled where it is `ok`; its colour is its size, given a bar."""
    sizes = own.dimension[np.isfinite(own.dimension)]
    least, most = (sizes.min(), 1.001 * sizes.max()) if len(sizes) else (1.0, 10.0)
    norm = LogNorm(least, most)
    colours: Any = ORDERED(norm(np.nan_to_num(own.dimension, nan=least)))
    if not colour_bar:
        colours = np.tile(to_rgba(COLOURS[0]), (len(own.llc), 1))
    for chosen, label in ((drawn & own.okay, "ok"), (drawn & ~own.okay, "not ok")):
        if not chosen.any():
            continue
        at, bars = own.truth[chosen], np.nan_to_num(1.96 * errors[chosen])
        lines: Any = {"ecolor": colours[chosen], "elinewidth": 0.5, "zorder": 1}
        ax.errorbar(at, heights[chosen], bars, fmt="none", **lines)
        faces = colours[chosen] if label == "ok" else "white"
        marks: Any = {"facecolors": faces, "edgecolors": colours[chosen], "linewidths": 0.8}
        name = f"{label} (n = {chosen.sum()})"
        ax.scatter(at, heights[chosen], s=10, zorder=2, label=name, **marks)
    if colour_bar and drawn.any():
        bar = ax.figure.colorbar(ScalarMappable(norm, ORDERED), ax=ax, aspect=30, pad=0.02)
        bar.set_label("parameters", fontsize=label_size(ax))
        few_labels(bar.ax.yaxis)
        bar.ax.tick_params(labelsize=small(ax), which="both")


def _finish(ax: Axes, own: Estimates) -> None:
    """The runs that have no λ̂, or no λ, and what is the same for every panel."""
    lost = ~np.isfinite(own.llc)
    if lost.any():
        placed = own.truth[lost & (own.truth > 0)]
        crosses(ax, placed, without(own.runs[lost], f"{own.at}sgld_status"))
    unknown = np.isfinite(own.llc) & ~(own.truth > 0)
    if unknown.any():
        crosses(ax, [], f"λ is 0 or not known (n = {unknown.sum()})", colour="0.5")
    if not own.comparable.any():
        note(ax, "no run has λ̂ and λ")
    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_scale() == "log":
            few_labels(axis)
    ax.set_xlabel(TRUTHS.get(own.known, own.known))
    legend(ax)


def signed_errors(
    ax: Axes,
    labels: Sequence[str],
    errors: NDArray[np.float64],
    standard_errors: NDArray[np.float64],
    okay: NDArray[np.bool_],
) -> None:
    """Signed relative errors λ̂/λ − 1 with 95 % intervals, one row a network; hollow: not `ok`."""
    rows = np.arange(len(labels))[::-1]
    for chosen, face, name in ((okay, COLOURS[0], "ok"), (~okay, "white", "not ok")):
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
    legend(ax)
