"""Two samplers against the number of examples: λ̂, how far they differ, and what a step costs."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from llc.figures.style import COLOURS, MARKS, crosses, legend, note, panels
from llc.figures.tables import Array, half_width, lists, numbers

SAMPLER, SIZE = "config.sampler_config.name", "config.problem_config.num_training_data"
APART = 1.08  # from the marks of one sampler to those of the next at one n


class Repeats(NamedTuple):
    """What the runs of one sampler at one n found: a λ̂ a chain that has one."""

    size: float
    llcs: Array
    diverged: int  # chains
    failed: int  # runs
    seconds: Array  # a run each, for 1,000 steps of one chain


def repeats(runs: pd.DataFrame, sampler: str) -> list[Repeats]:
    """By n: chains start from one w* with random numbers of their own, in one run or in several."""
    if SAMPLER not in runs or SIZE not in runs:
        return []
    result = []
    for size, own in runs[runs[SAMPLER] == sampler].groupby(SIZE):
        chains = lists(own, "llc_per_chain")
        values = np.concatenate([*chains, np.empty(0)])
        steps = numbers(own, "config.sampler_config.num_steps")
        steps = np.where(np.isnan(steps), numbers(own, "config.sgld_config.num_steps"), steps)
        chain_steps = steps * numbers(own, "config.sgld_config.num_chains")
        seconds = 1000 * numbers(own, "timing_sampling") / chain_steps
        found = np.isfinite(values)
        failed = sum(not len(chain) for chain in chains)
        result.append(Repeats(
            float(size), values[found], int((~found).sum()), failed, seconds[np.isfinite(seconds)]
        ))  # fmt: skip
    return result


def mala_beside_sgld(runs: pd.DataFrame) -> Figure:
    """λ̂ of each sampler, their difference, and the seconds of their steps against n, for print."""
    figure, axes = panels(3, 1, height=5.2, sharex=True)
    llc_by_size(axes[0, 0], runs)
    difference_by_size(axes[1, 0], runs)
    seconds_by_size(axes[2, 0], runs)
    return figure


def llc_by_size(ax: Axes, runs: pd.DataFrame) -> None:
    """λ̂ against n, mean and 95 % interval over all chains, for every sampler."""
    _by_size(ax, runs, lambda own: own.llcs, "chains")
    ax.set_ylabel("λ̂ (mean and 95 %)")


def seconds_by_size(ax: Axes, runs: pd.DataFrame) -> None:
    """Seconds for 1,000 steps of one chain against n: mean, least and largest of the runs."""
    _by_size(ax, runs, lambda own: own.seconds, "runs", _reach)
    ax.set_yscale("log")
    ax.set_ylabel("seconds for 1,000 steps")


def difference_by_size(
    ax: Axes, runs: pd.DataFrame, one: str = "sgld", other: str = "mala"
) -> None:
    """Signed relative difference of two samplers' λ̂ against n, with 95 % intervals (Welch's t)."""
    llcs, others = ({own.size: own.llcs for own in repeats(runs, name)} for name in (one, other))
    sizes = sorted({*llcs, *others})
    both = [size for size in sizes if len(llcs.get(size, ())) and len(others.get(size, ()))]
    for size in both:
        gap, half = difference(llcs[size], others[size])
        ax.errorbar(size, 100 * gap, 100 * half, fmt="o", ms=3.5, lw=1, color="black")
    ax.axhline(0, color="black", lw=0.8, zorder=0)
    ax.axhspan(-3, 3, color="0.93", zorder=-1)
    if missing := [size for size in sizes if size not in both]:
        crosses(ax, missing, f"no λ̂ of both (n = {len(missing)})")
    if not both:
        note(ax, "nothing to compare")
    ax.set_xscale("log")
    ax.set_xlabel("n")
    ax.set_ylabel(f"{one.upper()}/{other.upper()} − 1, per cent")
    legend(ax)


def difference(values: Array, others: Array) -> tuple[float, float]:
    """Relative difference of two means, and half of its 95 % interval by Welch's t-test."""
    middle = float(others.mean())
    gap = float(values.mean()) / middle - 1
    if min(len(values), len(others)) < 2:
        return gap, np.nan
    low, high = stats.ttest_ind(values, others, equal_var=False).confidence_interval()
    return gap, float(high - low) / 2 / middle


def _interval(values: Array) -> tuple[float, float]:
    half = float(half_width(values))
    return half, half


def _reach(values: Array) -> tuple[float, float]:
    """From the mean down to the least and up to the largest."""
    return values.mean() - values.min(), values.max() - values.mean()


def _by_size(
    ax: Axes,
    runs: pd.DataFrame,
    values: Callable[[Repeats], Array],
    unit: str,
    bars: Callable[[Array], tuple[float, float]] = _interval,
) -> None:
    names = sorted(runs[SAMPLER].dropna().unique()) if SAMPLER in runs else []
    for k, name in enumerate(names):
        own = repeats(runs, name)
        found = [(one.size * APART**k, values(one)) for one in own if len(values(one))]
        colour, counts = COLOURS[k % len(COLOURS)], sorted({len(some) for _, some in found})
        many = "–".join(map(str, counts[:: max(1, len(counts) - 1)]))
        ax.errorbar(
            [size for size, _ in found],
            [some.mean() for _, some in found],
            np.array([bars(some) for _, some in found]).reshape(-1, 2).T,
            fmt=f"{MARKS[k % len(MARKS)]}-",
            ms=3,
            lw=0.8,
            color=colour,
            label=f"{name} (n = {many} {unit})",
        )
        lost = [one.size * APART**k for one in own if one.diverged or one.failed]
        if lost:
            diverged, failed = (sum(getattr(o, w) for o in own) for w in ("diverged", "failed"))
            words = f"{name}: {diverged} chains diverged, {failed} runs without λ̂"
            crosses(ax, lost, words, colour=colour, height=0.03 + 0.05 * k)
    if not names:
        note(ax, "no runs")
    ax.set_xscale("log")
    ax.set_xlabel("n")
    legend(ax, loc="upper left")  # λ̂ and seconds both rise with n
