"""Tables of estimates over ε, γ and nβ as heat maps."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from llc.figures import COLOURS, SYMBOLS

COLOUR_MAP = "cividis"  # rises in brightness, and looks alike to readers with any colour vision
WRITTEN = 12  # columns above which there is no room for numbers


def grid_figure(table: pd.DataFrame, value: str = "llc_mean") -> Figure:
    """A heat map of one column of `llc.grid`'s table: ε across, γ up, a panel for each nβ.

    Cells whose status is not `ok` have a cross in their corner, those without a value are grey.
    Colours span the lower three quarters of the values and all that are ok: steps that are too
    large make λ̂ as large as you like.
    Raises: ValueError for a table without that column.
    """
    if value not in table:
        raise ValueError(f"value={value!r}: the table has {', '.join(table.columns)}")
    panels = list(table.groupby("nbeta"))
    across, up = table["epsilon"].nunique(dropna=False), table["gamma"].nunique()
    size = (len(panels) * max(2.6, 0.75 * across + 1.2) + 0.8, max(2.4, 0.6 * up + 1.6))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    found = table[value].dropna()
    shown = pd.concat([found[found <= found.quantile(0.75)], table.loc[table["ok"], value]])
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.0, 1.0)
    for ax, (nbeta, rows) in zip(axes, panels, strict=True):
        image = heat_map(ax, rows, value, low, high if high > low else low + 1)
        ax.set_title(f"{SYMBOLS['nbeta']} = {nbeta:.4g}", fontsize=9)
    axes[0].set_ylabel(SYMBOLS["gamma"])
    label = "λ̂" if value == "llc_mean" else value
    figure.colorbar(image, ax=list(axes), label=f"{label}  (×: status not ok)", extend="both")
    return figure


def heat_map(ax: Axes, rows: pd.DataFrame, value: str, low: float, high: float) -> AxesImage:
    """`rows`, of one nβ, on ε and γ; returns the image, for a colour bar."""
    # ε is NaN for samplers that find their own.
    epsilons = sorted(rows["epsilon"].unique(), key=lambda e: (np.isnan(e), e))
    gammas = sorted(rows["gamma"].unique())
    values = np.full((len(gammas), len(epsilons)), np.nan)
    for row in rows.to_dict("records"):
        epsilon = row["epsilon"]
        same = [e == epsilon or (np.isnan(e) and np.isnan(epsilon)) for e in epsilons]
        place = gammas.index(row["gamma"]), same.index(True)
        values[place] = row[value]
        if not row["ok"]:
            ax.plot(
                place[1] + 0.36, place[0] + 0.34, "x", ms=7, mew=1.5, color=COLOURS[5], zorder=3
            )
    ax.set_facecolor("0.8")
    image = ax.imshow(values, cmap=COLOUR_MAP, vmin=low, vmax=high, origin="lower", aspect="auto")
    if len(epsilons) <= WRITTEN:
        for (i, j), number in np.ndenumerate(values):
            words = f"{number:.3g}" if np.isfinite(number) else "–"
            dark = np.isfinite(number) and (number - low) / (high - low) < 0.5
            colour = "white" if dark else "black"
            ax.text(j, i, words, ha="center", va="center", fontsize=7, color=colour, zorder=4)
    ax.set_xticks(range(len(epsilons)), [f"{e:.2g}" for e in epsilons], fontsize=8, rotation=45)
    ax.set_yticks(range(len(gammas)), [f"{g:g}" for g in gammas], fontsize=8)
    ax.set_xlabel(SYMBOLS["epsilon"])
    return image
