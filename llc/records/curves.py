"""What a row of the table leaves out, read when asked for: curves and traces."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import h5netcdf
import pandas as pd
import xarray as xr

from llc.records.sources import open_source


def curve(run: Any) -> Any:
    """One row per checkpoint (`t`) of `run`, a row of the table.

    From `info["records"]`, or where there are none from the metrics: one column each, by step.
    """
    return pd.DataFrame(_points(run))


def curves(runs: Any, *columns: str) -> Any:
    """The curves of all `runs` as one table: `source` and `id`, the `columns` of `runs`, the curve.

    A name that both have, such as `lambdahat`, is the curve's.
    """
    labels = runs[list(dict.fromkeys(["source", "id", *columns]))].to_dict("records")
    return pd.DataFrame(
        [
            label | point
            for label, (_, run) in zip(labels, runs.iterrows(), strict=True)
            for point in _points(run)
        ]
    )


def traces(run: Any, name: str = "traces.nc") -> xr.Dataset:
    """The traces of `run`, a row of the table; groups of ArviZ come as one dataset.

    Raises:
        FileNotFoundError: where the run has none.
    """
    content = open_source(run["source"]).artifact(run, name)
    with h5netcdf.File(io.BytesIO(content), "r") as file:
        groups: Iterable[str | None] = [None, *file.groups]
    parts = [
        xr.load_dataset(io.BytesIO(content), engine="h5netcdf", group=group) for group in groups
    ]
    return xr.merge(parts, combine_attrs="drop_conflicts")


def _points(run: Any) -> list[dict[str, Any]]:
    """A dict per checkpoint; `t` first, the rest by name: files are sorted, documents are not."""
    source = open_source(run["source"])
    points = source.info(run).get("records") or _by_step(source.metrics(run))
    return [dict(sorted(p.items(), key=lambda item: (item[0] != "t", item[0]))) for p in points]


def _by_step(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    points: dict[Any, dict[str, Any]] = {}
    for name, metric in metrics.items():
        for step, value in zip(metric["steps"], metric["values"], strict=True):
            points.setdefault(step, {"t": step})[name] = value
    return [points[step] for step in sorted(points)]
