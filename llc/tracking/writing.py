"""What a run writes down: scalars into `info`, curves into metrics, files as artifacts."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from llc.tracking.quiet_sacred import FileStorageObserver

INFO_BYTES = 1_000_000
CURVE_POINTS = 500


def plain(value: Any) -> Any:
    """Turn `value` into what JSON knows, recursively.

    NumPy and torch scalars and arrays become numbers and lists, fractions floats, paths text,
    dataclasses and named tuples dicts; NaN and infinities become None.

    Raises:
        TypeError: for anything else.
    """
    if value is None or isinstance(value, bool):
        return value
    # int(), str(): a subclass (np.str_, an enumeration) would not stay plain in every store.
    if isinstance(value, int):
        return int(value)
    if isinstance(value, (float, Fraction)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (str, Path)):
        return str(value)
    if hasattr(value, "_asdict"):
        value = value._asdict()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, bytes):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"a {type(value).__name__} cannot be recorded")


def record(_run: Any, **values: Any) -> None:
    """Add `values`, made plain, to the run's `info`.

    Raises:
        TypeError: if a value cannot be made plain.
        ValueError: if `info` would grow beyond 1 MB; arrays belong into an artifact.
    """
    # A new dict each time: the heartbeat thread may be writing the old one to disk.
    info = {**_run.info, **{key: plain(value) for key, value in values.items()}}
    sizes = {key: len(json.dumps(value)) for key, value in info.items()}
    if sum(sizes.values()) > INFO_BYTES:
        largest = max(sizes, key=sizes.__getitem__)
        raise ValueError(
            f"info[{largest!r}] takes {sizes[largest]} of the {INFO_BYTES} bytes of info: "
            "store arrays with tracking.artifact or tracking.log_curve"
        )
    _run.info = info


def log_curve(
    _run: Any, name: str, steps: Any, values: Any, max_points: int = CURVE_POINTS
) -> None:
    """Log a curve as a Sacred metric: at most `max_points` points, evenly spread, both ends kept.

    Values that are not finite are logged as None.

    Raises:
        ValueError: if `steps` and `values` differ in length.
    """
    steps, values = plain(steps), plain(values)
    if len(steps) != len(values):
        raise ValueError(f"curve {name!r} has {len(steps)} steps and {len(values)} values")
    last, count = len(steps) - 1, min(len(steps), max(2, max_points))
    for k in range(count):
        i = k if count == len(steps) else round(k * last / (count - 1))
        _run.log_scalar(name, values[i], steps[i])


@contextmanager
def artifact(_run: Any, name: str) -> Iterator[Path]:
    """Yield a temporary path called `name`; what is written there becomes an artifact of the run.

    Nothing is kept when the body raises. Where no observer listens the file is written and
    dropped.

    Raises:
        FileNotFoundError: if the body writes no file there.
    """
    with tempfile.TemporaryDirectory(prefix="llc-") as directory:
        path = Path(directory) / name
        yield path
        if not path.is_file():
            raise FileNotFoundError(f"artifact {name!r} was not written")
        _run.add_artifact(path, name)


def run_directory(_run: Any) -> Path | None:
    """Return where the run is recorded on disk, or None where it is not, or only for a time."""
    for observer in _run.observers:
        lasting = not getattr(observer, "temporary", False)
        if isinstance(observer, FileStorageObserver) and observer.dir and lasting:
            return Path(observer.dir)
    return None


def whereabouts(_run: Any, picture: str | None = None) -> str:
    """Where the run is recorded, for a person at a terminal."""
    lines = []
    if directory := run_directory(_run):
        lines.append(f"run directory: {directory}")
        if picture:
            lines.append(f"picture:       {directory / picture}")
    lines += [
        f"MongoDB:       run {_run._id} in {observer.address}"
        for observer in _run.observers
        if hasattr(observer, "address")
    ]
    return "\n".join(lines) or "nothing was recorded: add -F runs before 'with'"
