"""Runs in a directory tree, as the file observer leaves them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llc.records.sources import Broken, Found, SourceError, found


class Directory:
    """The runs in and below a directory; with `nested=False` only those that it gave their id.

    Raises:
        SourceError: where it is not there.
    """

    def __init__(self, name: str, nested: bool = True) -> None:
        self.name, self.nested = name, nested
        if not os.path.isdir(name):
            raise SourceError(f"{name}: no such directory")

    def runs(self) -> Iterator[Found | Broken]:
        within = _run_directories if self.nested else _own_run_directories
        for directory in within(self.name):
            try:
                yield self._read(directory)
            except (OSError, ValueError) as error:
                if os.path.isdir(directory):  # else it has just been removed
                    yield Broken(directory, _words(error))

    def _read(self, directory: str) -> Found:
        run, config = (_json(directory, f"{name}.json") for name in ("run", "config"))
        info = _json(directory, "info.json", {})
        name = os.path.basename(os.path.abspath(directory))
        return found(self.name, name, directory, run, config, info)

    def info(self, run: Any) -> Mapping[str, Any]:
        return _record(run, "info.json")

    def metrics(self, run: Any) -> Mapping[str, Any]:
        return _record(run, "metrics.json")

    def artifact(self, run: Any, name: str) -> bytes:
        return Path(run["directory"], name).read_bytes()


def _run_directories(top: str) -> Iterator[str]:
    if _is_run(top):
        yield top
        return
    for directory in _below(top):
        yield from _run_directories(directory)


def _own_run_directories(top: str) -> Iterator[str]:
    return filter(_is_run, _below(top))


def _is_run(directory: str) -> bool:
    """Whether there is a record, or a number for a name and no directory below: a run beginning."""
    if any(os.path.exists(os.path.join(directory, name)) for name in ("run.json", "config.json")):
        return True
    return os.path.basename(os.path.normpath(directory)).isdigit() and not _below(directory)


def _below(top: str) -> list[str]:
    with os.scandir(top) as entries:
        found = [e for e in entries if not e.name.startswith(("_", ".")) and e.is_dir()]
    return [e.path for e in sorted(found, key=lambda e: _in_order(e.name))]


def _in_order(name: str) -> tuple[bool, int, str]:
    """Run 2 before run 10, as in a database."""
    return (False, int(name), name) if name.isdecimal() else (True, 0, name)


def _record(run: Any, name: str) -> Mapping[str, Any]:
    return dict(_json(run["directory"], name, {}))


def _json(directory: str, name: str, default: Any = None) -> Any:
    """What a file contains; `default` where there is none."""
    try:
        with open(os.path.join(directory, name), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return default
    except ValueError as error:
        raise ValueError(f"{name}: not whole ({error})") from None


def _words(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
