"""Runs in a MongoDB, as Sacred lays them out."""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gridfs
from pymongo.errors import PyMongoError

from llc.mongodb import connect, read_url, reason, try_out
from llc.records.sources import Broken, Found, SourceError, found


class Database:
    """The runs of the database that `url` names (`mongodb://host:port/database`).

    Raises:
        SourceError: where it does not answer.
    """

    def __init__(self, url: str) -> None:
        try:
            address = read_url(url)
        except ValueError as error:
            raise SourceError(f"mongodb://…: {error}") from None
        self.name = address.name
        with self._answering():
            client = connect(url)
            atexit.register(client.close)
            self._database: Any = client[address.database]
            try_out(self._database)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (PyMongoError, ValueError) as error:
            raise SourceError(f"{self.name}: {reason(error)}") from None

    def runs(self) -> Iterator[Found | Broken]:
        with self._answering():
            unread = {"captured_out": 0, "info.records": 0, "info.metrics": 0}
            documents = self._database["runs"].find({}, unread).sort("_id", 1)
            yield from map(self._read, documents)

    def _read(self, document: Any) -> Found | Broken:
        run_id, config, info = (document.get(key) for key in ("_id", "config", "info"))
        try:
            return found(self.name, str(run_id), None, document, config, info or {})
        except ValueError as error:
            return Broken(f"{self.name} run {run_id}", str(error))

    def info(self, run: Any) -> Mapping[str, Any]:
        document = self._database["runs"].find_one({"_id": _key(run)}, {"info": 1})
        return (document or {}).get("info") or {}

    def metrics(self, run: Any) -> Mapping[str, Any]:
        metrics = self._database["metrics"].find({"run_id": _key(run)})
        return {metric["name"]: metric for metric in metrics}

    def artifact(self, run: Any, name: str) -> bytes:
        document = self._database["runs"].find_one({"_id": _key(run)}, {"artifacts": 1})
        files = {entry["name"]: entry["file_id"] for entry in (document or {})["artifacts"]}
        if name not in files:
            raise FileNotFoundError(f"{self.name} run {run['id']} has no {name}")
        content: bytes = gridfs.GridFS(self._database).get(files[name]).read()
        return content


def _key(run: Any) -> int | str:
    run_id = str(run["id"])
    return int(run_id) if run_id.isdigit() else run_id
