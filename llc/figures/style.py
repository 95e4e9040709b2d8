"""How figures look and how they are saved: colours, sizes, fonts, and what their metadata tell."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

# Okabe & Ito's palette: told apart by readers with any colour vision, and in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
SYMBOLS = {"epsilon": "ε", "gamma": "γ", "nbeta": "nβ"}  # of settings, for axes
LOST = COLOURS[5]  # of runs without λ̂
# For numbers: the same order to every eye, without the end that is too pale on white.
ORDERED = ListedColormap(colormaps["cividis"](np.linspace(0, 0.87, 256)))
MARKS = "os^Dv"  # of series, beside their colours
MAX_POINTS = 1_000
MAX_CHAINS = 8

COLUMN, PAGE = 3.25, 6.75  # inches: the column and the width of a two-column page
DPI = 300
WIDE = 300.0  # from here on a logarithmic axis has room for every power of ten, and no more
STYLE: Any = {
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "pdf.fonttype": 42,  # whole TrueType fonts: text stays text
    "text.usetex": False,
}


def panels(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = COLUMN,
    height: float | None = None,
    **more: Any,
) -> tuple[Figure, Any]:
    """A figure for print, and its Axes: as an array (rows, columns), or alone where not asked else.

    `width`, `height`: inches, by default a column, and panels of three quarters of their width;
    `more`: of `Figure.subplots`.
    """
    with rc_context(STYLE):
        size = (width, height or rows * 0.75 * width / columns)
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        axes = figure.subplots(rows, columns, **{"squeeze": False, **more})
    alone = axes.size == 1 and "squeeze" not in more
    return figure, axes[0, 0] if alone else axes


def save(figure: Figure, path: str | Path, runs: pd.DataFrame) -> list[Path]:
    """Write `path`.png and `path`.pdf; `runs` is the table that the figure was drawn from.

    Their metadata tell how many runs there were, what became of them, and the commits they ran at.
    Where some did not complete or cannot be read, the figure itself says so at its foot.
    """
    about, trouble = provenance(runs), losses(runs)
    if trouble:
        figure.supxlabel(trouble, fontsize=5.5, color=LOST)
    for ax in figure.axes:
        if _has_neighbours(ax):
            ax.label_outer()
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    written = [target.with_name(f"{target.name}.{kind}") for kind in ("png", "pdf")]
    told: dict[str, dict[str, Any]] = {
        "png": {"Description": about},
        "pdf": {"Subject": about, "CreationDate": None},
    }
    with rc_context(STYLE):
        for file in written:
            kind = file.suffix[1:]
            figure.savefig(file, dpi=DPI, metadata={"Title": target.name, **told[kind]})
    return written


def _has_neighbours(ax: Axes) -> bool:
    """Whether panels beside it share its x axis; its own twin is none of them."""
    siblings = ax.get_shared_x_axes().get_siblings(ax)
    return any(other.get_subplotspec() != ax.get_subplotspec() for other in siblings)


def provenance(runs: pd.DataFrame) -> str:
    """As in `24 runs: 23 COMPLETED, 1 FAILED; 1 unreadable; commit 1f2e3d4c5b6a (modified)`."""
    counts = ", ".join(f"{count} {status}" for status, count in _statuses(runs).most_common())
    parts = [f"{len(runs)} runs: {counts}" if len(runs) else "no recorded runs"]
    parts += [f"{len(broken)} unreadable"] if (broken := runs.attrs.get("broken")) else []
    rows = runs.reindex(columns=["commit", "dirty"]).drop_duplicates()
    commits = sorted({_commit(*row) for row in rows.itertuples(index=False)})
    return "; ".join([*parts, *([f"commit {', '.join(commits)}"] if commits else [])])


def losses(runs: pd.DataFrame) -> str:
    """As in `of 24 runs 1 FAILED; 1 more cannot be read`; empty where all is well."""
    bad = {status: n for status, n in _statuses(runs).items() if status != "COMPLETED"}
    broken = len(runs.attrs.get("broken", ()))
    words = [f"of {len(runs)} runs " + ", ".join(f"{n} {s}" for s, n in bad.items())] if bad else []
    return "; ".join(words + ([f"{broken} more cannot be read"] if broken else []))


def _commit(commit: object, dirty: object) -> str:
    name = commit[:12] if isinstance(commit, str) else "unknown"
    return f"{name} (modified)" if dirty is True else name


def _statuses(runs: pd.DataFrame) -> Counter[str]:
    return Counter(runs["status"]) if "status" in runs else Counter()


def label_size(ax: Axes) -> float:
    """The size of a panel's labels."""
    return float(ax.xaxis.label.get_fontsize())


def small(ax: Axes) -> float:
    """The size of text inside a panel, which follows that of its labels."""
    return 0.82 * label_size(ax)


def legend(ax: Axes, **options: Any) -> None:
    """A legend where there is something to tell."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(**{"fontsize": small(ax), "framealpha": 0.7, **options})


def title(ax: Axes, words: str) -> None:
    """What a panel is of, above it at the left; matplotlib would take its default size."""
    ax.set_title(words, loc="left", fontsize=label_size(ax))


def few_labels(axis: Axis) -> None:
    """Of a logarithmic axis over a decade or two, whose labels would stand on each other."""
    low, high = axis.get_view_interval()
    if low > 0 and high < WIDE * low:
        axis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def note(ax: Axes, words: str) -> None:
    """Words in the middle of a panel that has nothing to show."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    ax.text(0.5, 0.5, words, ha="center", va="center", color="0.4", fontsize=small(ax), bbox=box,
            transform=ax.transAxes)  # fmt: skip


def crosses(ax: Axes, places: Any, label: str, *, colour: str = LOST, height: float = 0.03) -> None:
    """Crosses at the bottom of a panel, where something has no value to be drawn at.

    Without places only the legend has one.
    """
    places = np.asarray(places, dtype=np.float64)
    inside = not len(places)  # the layout engine stumbles over an unclipped line without points
    ax.plot(places, np.full(len(places), height), "x", ms=4, color=colour, label=label,
            transform=ax.get_xaxis_transform(), clip_on=inside)  # fmt: skip


def band(ax: Axes, x: Any, middle: Any, half: Any, colour: Any) -> None:
    """A band of half width `half` where that is known; the layout engine stumbles over NaN."""
    known = np.isfinite(middle) & np.isfinite(half)
    if known.any():
        low, high = np.subtract(middle, half), np.add(middle, half)
        ax.fill_between(x, low, high, where=known, color=colour, alpha=0.25, lw=0)


def thinned(length: int) -> NDArray[np.int64]:
    """At most MAX_POINTS places, both ends kept."""
    return np.unique(np.linspace(0, length - 1, min(length, MAX_POINTS)).astype(np.int64))
