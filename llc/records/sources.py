"""What every place with runs offers, and how a place is found from its name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol


class SourceError(ValueError):
    """There is nothing to read at a place; the message is one line."""


class Found(NamedTuple):
    """A run as it was recorded."""

    source: str
    id: str
    directory: str | None
    run: Mapping[str, Any]  # Sacred's run.json, with MongoDB's documents in the same form
    config: Mapping[str, Any]
    info: Mapping[str, Any]

    @property
    def experiment(self) -> str:
        """The name of its experiment."""
        return str((self.run.get("experiment") or {}).get("name"))

    @property
    def place(self) -> str:
        """The directory or database that gave it its id."""
        return os.path.dirname(os.path.abspath(self.directory)) if self.directory else self.source

    @property
    def where(self) -> str:
        """Where it is, for a person."""
        return self.directory or f"{self.source} run {self.id}"


class Broken(NamedTuple):
    """A run that cannot be read."""

    where: str
    why: str


class Source(Protocol):
    """A directory tree or a database."""

    name: str

    def runs(self) -> Iterator[Found | Broken]:
        """Every run there."""
        ...

    def info(self, run: Any) -> Mapping[str, Any]:
        """The `info` of a row of the table."""
        ...

    def metrics(self, run: Any) -> Mapping[str, Any]:
        """Its metrics: steps and values by name."""
        ...

    def artifact(self, run: Any, name: str) -> bytes:
        """The content of one of its files."""
        ...


_opened: dict[str, Source] = {}


def open_source(name: str) -> Source:
    """The place called `name`: `mongodb://host:port/database`, or a directory.

    Raises:
        SourceError: where it is not there.
    """
    # A table names a database without its password: the connection is found again here.
    if name in _opened:
        return _opened[name]
    if "://" not in name:
        from llc.records.files import Directory

        return Directory(name)
    from llc.records.mongo import Database

    source = Database(name)
    _opened[source.name] = source
    return source


def found(
    source: str, run_id: str, directory: str | None, run: Any, config: Any, info: Any
) -> Found:
    """What stands at `source`, if it is a record; without the curves, which are large.

    Raises:
        ValueError: saying what is wrong.
    """
    for name, part in (("run", run), ("config", config), ("info", info)):
        if not isinstance(part, Mapping):
            raise ValueError(f"{name}: missing" if part is None else f"{name}: not a record")
    if not isinstance(run.get("status"), str):
        raise ValueError("run: has no status")
    for name in ("experiment", "host", "meta"):
        if not isinstance(run.get(name) or {}, Mapping):
            raise ValueError(f"run: {name}: not a record")
    values = {key: value for key, value in info.items() if key not in ("records", "metrics")}
    return Found(source, run_id, directory, run, config, values)
