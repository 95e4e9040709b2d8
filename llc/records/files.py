"""Runs in a directory tree, as the file observer leaves them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llc.records.sources import Broken, Found, SourceError, check


class Directory:
    """The runs in and below a directory.

    Raises:
        SourceError: where it is not there.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        if not os.path.isdir(name):
            raise SourceError(f"{name}: no such directory")

    def runs(self) -> Iterator[Found | Broken]:
        for directory in _run_directories(self.name):
            try:
                yield _read(directory)
            except (OSError, ValueError) as error:
                if os.path.isdir(directory):  # else it has just been removed
                    yield Broken(directory, _words(error))

    def info(self, run: Any) -> Mapping[str, Any]:
        return _record(run, "info.json")

    def metrics(self, run: Any) -> Mapping[str, Any]:
        return _record(run, "metrics.json")

    def artifact(self, run: Any, name: str) -> bytes:
        return Path(run["directory"], name).read_bytes()


def _run_directories(top: str) -> Iterator[str]:
    """Directories with a record, or with a number for a name and no directories below."""
    entries = sorted(os.scandir(top), key=lambda entry: entry.name)
    names = {entry.name for entry in entries}
    below = [e.path for e in entries if e.is_dir() and not e.name.startswith(("_", "."))]
    begun = os.path.basename(os.path.normpath(top)).isdigit() and not below
    if begun or names & {"run.json", "config.json"}:
        yield top
        return
    for directory in below:
        yield from _run_directories(directory)


def _read(directory: str) -> Found:
    run, config = (_json(directory, f"{name}.json") for name in ("run", "config"))
    info = _json(directory, "info.json", {})
    check(run, config, info)
    return Found(os.path.basename(os.path.abspath(directory)), directory, run, config, info)


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
