"""What figures ask of tables of runs: numbers, and what became of the runs that have none."""

import re
from collections import Counter

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]


def numbers(table: pd.DataFrame, column: str) -> Array:
    """A column as floats: NaN where a row has no number, or no such column."""
    if column not in table:
        return np.full(len(table), np.nan)
    return np.array(pd.to_numeric(table[column], errors="coerce"), dtype=np.float64)


def lists(table: pd.DataFrame, column: str) -> list[Array]:
    """A column of lists as arrays; empty where a row has none."""
    if column not in table:
        return [np.empty(0)] * len(table)
    cells = table[column]
    return [
        np.array(cell if isinstance(cell, (list, tuple)) else [], dtype=np.float64)
        for cell in cells
    ]


def names(table: pd.DataFrame, other: pd.DataFrame | None = None) -> pd.Series:
    """What each row's run is called, alike in `table` and in an `other` table: place and id."""
    keys = ("source", "directory", "id")
    columns = [key for key in keys if key in table and (other is None or key in other)]
    rows = table[columns].astype(str).itertuples(index=False)
    return pd.Series(map("/".join, rows), index=table.index, dtype=str)


def is_ok(runs: pd.DataFrame, column: str = "sgld_status") -> NDArray[np.bool_]:
    """Which runs have an estimate that is `ok`."""
    if column not in runs:
        return np.zeros(len(runs), dtype=bool)
    return np.array([status == "ok" for status in runs[column]], dtype=bool)


def without(runs: pd.DataFrame, column: str = "sgld_status") -> str:
    """`runs` have no λ̂: how many there are, and why, as in `no λ̂ (n = 3): 2 diverged, 1 FAILED`."""
    sacred = runs["status"] if "status" in runs else ["COMPLETED"] * len(runs)
    own = runs[column] if column in runs else [None] * len(runs)
    reasons = Counter(
        kind(words) if status == "COMPLETED" else str(status)
        for status, words in zip(sacred, own, strict=True)
    )
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return f"no λ̂ (n = {len(runs)}): {told}"


def kind(status: object) -> str:
    """The words of an estimate's status before its details."""
    return re.split(r":? at step |: ", status)[0] if isinstance(status, str) else "not recorded"


def half_width(values: ArrayLike, axis: int = 0) -> Array:
    """Half of the 95 % interval (Student's t) of the mean along `axis`; NaN for a single value."""
    values = np.asarray(values, dtype=np.float64)
    count = values.shape[axis]
    if count < 2:  # a single value tells nothing of its error
        return np.full(values.mean(axis).shape, np.nan)
    spread = values.std(axis, ddof=1) / count**0.5
    return np.asarray(stats.t.ppf(0.975, count - 1) * spread)
