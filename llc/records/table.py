"""Runs -> one tidy table."""

from __future__ import annotations

import ast
import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from llc.records.life import moment, status
from llc.records.reading import read
from llc.records.sources import Found, open_source

FIXED = [
    "source", "id", "directory", "experiment", "status", "superseded", "started", "ended",
    "duration", "heartbeat", "host", "commit", "dirty", "result",
]  # fmt: skip
TIMES = {"started": "start_time", "ended": "stop_time", "heartbeat": "heartbeat"}
SHORT = 100  # entries of a list that is still a value and not a curve
ENDED_BADLY = ("DEAD", "FAILED", "INTERRUPTED")


def load_runs(*sources: str | os.PathLike[str], where: Mapping[str, Any] | None = None) -> Any:
    """One row a run of all `sources`: directory trees and `mongodb://host:port/database`.

    The columns are described in `llc.records`. `where` keeps some of the runs, as `select` does.
    `superseded` marks a run that did not complete and was taken up by another (`resumed_from`),
    or was started again later with the same configuration.

    Raises:
        SourceError: where a source is not there.
        ValueError: for a key in `where` that no run has.
    """
    found, broken = read(*(open_source(os.fspath(source)) for source in sources))
    runs = _frame([_row(run) for run in found])
    runs.attrs["broken"] = broken
    return select(runs, where or {})


def select(runs: Any, where: Mapping[str, Any]) -> Any:
    """The rows of `runs` whose columns have the values in `where`.

    A key is a column, and may leave out `config.`; a tuple holds alternatives; None is what is
    missing.

    Raises:
        ValueError: for a key that is no column.
    """
    for key, wanted in where.items():
        if runs.empty:
            break
        accepted = wanted if isinstance(wanted, tuple) else (wanted,)
        cells = runs[column(runs, key)]
        runs = runs[[any(_same(cell, value) for value in accepted) for cell in cells]]
    return runs.reset_index(drop=True)


def column(runs: Any, key: str) -> str:
    """The column that `key` names, with or without `config.`.

    Raises:
        ValueError: naming the nearest, where there is none.
    """
    for name in (key, f"config.{key}"):
        if name in runs.columns:
            return name
    names = list(runs.columns) + [name.removeprefix("config.") for name in runs.columns]
    close = difflib.get_close_matches(key, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(f"{key}: no run has this column{hint}")


def read_value(text: str) -> Any:
    """A number, list or None where `text` is one."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _same(cell: Any, wanted: Any) -> bool:
    if not isinstance(cell, (list, dict)) and pd.isna(cell):
        return wanted is None
    return bool(cell == wanted) or str(cell) == str(wanted)  # an id is text, whatever is asked


def _row(found: Found) -> dict[str, Any]:
    run = found.run
    experiment = run.get("experiment") or {}
    repositories = experiment.get("repositories") or []
    fixed = {
        "source": found.source,
        "id": found.id,
        "directory": found.directory,
        "experiment": experiment.get("name"),
        "status": status(run),
        **{name: moment(run.get(key)) for name, key in TIMES.items()},
        "host": (run.get("host") or {}).get("hostname"),
        "commit": next((r["commit"] for r in repositories if r.get("commit")), None),
        "dirty": any(r.get("dirty") for r in repositories),
        "result": run.get("result"),
    }
    hidden = {
        "_place": found.place,
        "_config": json.dumps(found.config, sort_keys=True, default=str),
    }
    config = {f"config.{key}": value for key, value in _flat(found.config)}
    info = {key: value for key, value in _flat(found.info) if _is_value(value)}
    clashing = {f"info.{key}": info.pop(key) for key in [*info] if key in FIXED}
    return fixed | hidden | config | info | clashing


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_value(value: Any) -> bool:
    if not isinstance(value, list):
        return True
    return len(value) <= SHORT and not any(isinstance(entry, Mapping) for entry in value)


def _frame(rows: Sequence[dict[str, Any]]) -> Any:
    frame = pd.DataFrame(list(rows))
    for name in {*FIXED, "_place", "_config"} - {*frame.columns}:
        frame[name] = None
    for name in TIMES:
        frame[name] = pd.Series(frame[name], dtype="datetime64[ms, UTC]")
    last = frame["ended"].fillna(frame["heartbeat"]).fillna(frame["started"])
    frame["duration"] = (last - frame["started"]).dt.total_seconds()
    frame["superseded"] = np.array(_superseded(frame), dtype=bool)
    shown = [name for name in frame.columns if not name.startswith("_") and name not in FIXED]
    return frame[FIXED + sorted(shown, key=lambda name: (not name.startswith("config."), name))]


def _superseded(frame: Any) -> list[bool]:
    taken_up: set[tuple[str, str]] = set()
    if "resumed_from" in frame:
        taken_up.update(zip(frame["_place"], frame["resumed_from"].astype(str), strict=True))
    latest = frame.groupby(["experiment", "_config"], dropna=False)["started"].transform("max")
    again = frame["status"].isin(ENDED_BADLY) & (frame["started"] < latest)
    return [
        status != "COMPLETED" and (later or place in taken_up)
        for status, later, place in zip(
            frame["status"], again, zip(frame["_place"], frame["id"], strict=True), strict=True
        )
    ]
