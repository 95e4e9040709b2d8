"""All samplers on all problems, as one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from llc.benchmarking.statistics import Summary
from llc.figures import COLOURS

COLUMNS = 3  # families beside each other
LINEAR = 1.0  # per cent: errors below are drawn on a linear scale, those above on a logarithmic one
LARGEST = 300.0  # per cent


def comparison_figure(
    families: Sequence[tuple[str, Sequence[Summary]]], columns: int = COLUMNS
) -> Figure:
    """Two panels a family: the signed error of every seed, and what an error of 1 % costs.

    columns: families beside each other, at most; one is as wide as a printed page.
    """
    labels = list(dict.fromkeys(own.label for _, of in families for own in of))
    across = max(1, min(columns, len(families)))
    down = math.ceil(len(families) / across)
    height = down * (1.1 + 0.19 * len(labels)) + 0.4
    figure = Figure(figsize=(1.6 + 4.6 * across, height), layout="constrained")
    if not families:
        figure.supxlabel("no runs")
        return figure
    panels = figure.subplots(down, 2 * across, squeeze=False, width_ratios=[3, 2] * across)
    for k, (name, summaries) in enumerate(families):
        left, right = panels[k // across][2 * (k % across) :][:2]
        by_label = {own.label: own for own in summaries}
        signed(left, labels, by_label)
        costs(right, labels, by_label)
        left.set_title(name, fontsize=8, loc="left")
        left.set_yticks(_places(labels), labels if k % across == 0 else [], fontsize=7)
        if k // across == down - 1 or k + across >= len(families):
            left.set_xlabel("λ̂/target − 1, per cent, a point a seed", fontsize=7)
            right.set_xlabel("seconds for 1 %", fontsize=7)
    for ax in panels.flat[2 * len(families) :]:
        ax.set_axis_off()
    figure.legend(handles=_key(), loc="outside lower center", ncols=5, fontsize=7)
    return figure


def signed(ax: Axes, labels: Sequence[str], summaries: Mapping[str, Summary]) -> None:
    """Filled where the run is `ok`; the number of runs without λ̂ stands at the right."""
    for place, label in zip(_places(labels), labels, strict=True):
        if label not in summaries:
            continue
        own = summaries[label]
        errors = 100 * own.errors
        shown = np.clip(errors, -LARGEST, LARGEST)
        for x, error, run in zip(shown, errors, own.done, strict=True):
            ok = run.info.get("llc_status") == "ok"
            ax.plot(
                x,
                place,
                marker="o" if x == error else "x",
                ms=3.5,
                color=COLOURS[0] if x == error else COLOURS[5],
                markerfacecolor=COLOURS[0] if ok else "white",
            )
        missing = len([run for run in own.runs if run.outcome not in ("done", "repeat")])
        if missing:
            words = f"{missing} without λ̂"
            ax.text(0.99, place, words, fontsize=6, ha="right", va="center", color=COLOURS[5],
                    transform=ax.get_yaxis_transform())  # fmt: skip
    if all(own.target.value is None for own in summaries.values()):
        ax.text(0.5, 0.5, "nothing to compare with", fontsize=7, ha="center", color="0.4",
                transform=ax.transAxes)  # fmt: skip
    ax.axvline(0, color="black", lw=0.8, zorder=0)
    ax.set_xscale("symlog", linthresh=LINEAR)
    ax.set_xlim(-1.3 * LARGEST, 1.3 * LARGEST)
    ticks = [-100, -10, -1, 0, 1, 10, 100]
    ax.set_xticks(ticks, [f"{tick:+d}" if tick else "0" for tick in ticks])
    _rows(ax, labels)


def costs(ax: Axes, labels: Sequence[str], summaries: Mapping[str, Summary]) -> None:
    """Hatched where a bias is certain: there a longer run does not help."""
    for place, label in zip(_places(labels), labels, strict=True):
        cost = summaries[label].cost() if label in summaries else math.nan
        if math.isfinite(cost) and cost > 0:
            (bar,) = ax.barh(place, cost, height=0.6, lw=0.6, color=COLOURS[0])
            if summaries[label].is_biased:
                bar.set(facecolor="white", edgecolor=COLOURS[5], hatch="////")
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.set_xlim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
    ax.set_yticks(_places(labels), [])
    _rows(ax, labels)


def _rows(ax: Axes, labels: Sequence[str]) -> None:
    ax.set_ylim(-0.6, len(labels) - 0.4)
    ax.tick_params(axis="x", labelsize=6)
    ax.grid(axis="x", lw=0.3, color="0.85")
    ax.set_axisbelow(True)


def _places(labels: Sequence[str]) -> list[int]:
    """The first sampler on top."""
    return list(range(len(labels)))[::-1]


def _key() -> list[Artist]:
    """What the marks mean."""
    blue, orange = COLOURS[0], COLOURS[5]
    far = f"beyond ±{LARGEST:.0f} %"
    return [
        Line2D([], [], ls="", ms=4, marker="o", color=blue, label="`ok`"),
        Line2D([], [], ls="", ms=4, marker="o", color=blue, markerfacecolor="w", label="not `ok`"),
        Line2D([], [], ls="", ms=4, marker="x", color=orange, label=far),
        Patch(color=blue, label="cost"),
        Patch(facecolor="white", edgecolor=orange, hatch="////", label="at least: biased"),
    ]
