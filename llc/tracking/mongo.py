"""An observer that keeps MongoDB up to date with a run's files, and never holds the run up.

The files are the record; the database follows, in Sacred's layout: `runs`, `metrics`, artifacts and
sources in GridFS. What it lacks at the end is said, and is on disk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from bson import ObjectId
from bson.errors import BSONError
from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, DuplicateKeyError, PyMongoError

from llc.config import ConfigError
from llc.mongodb import Address, connect, reason, try_out
from llc.tracking.delivery import Delivery, Kind
from llc.tracking.observers import WholeFileObserver, finite
from llc.tracking.quiet_sacred import RunObserver, flatten
from llc.tracking.uploads import Uploads
from llc.tracking.writing import plain

OPERATION_SECONDS = 10.0
OUTPUT_CHARACTERS = 1_000_000  # of captured output: a document holds 16 MB at most


class MongoMirror(RunObserver):  # type: ignore[misc]  # Sacred has no types
    """Brings what `files` records to the database at `address`, once its id is claimed there.

    Raises:
        ConfigError: where the database does not answer.
    """

    priority = 10  # after the files: artifacts and sources are read from there

    def __init__(self, address: Address, files: WholeFileObserver) -> None:
        self.address, self.files = address, files
        self._client: MongoClient[dict[str, Any]] | None = None
        with self._at_start():
            self._client = connect(address.url, timeoutMS=int(OPERATION_SECONDS * 1000))
            database = self._client[address.database]
            self._runs, self._metrics = database["runs"], database["metrics"]
            try_out(database)
        self._entry: dict[str, Any] = {}
        self._sent: dict[str, Any] = {}
        self._curves: dict[str, dict[str, Any]] = {}
        self._writing = threading.Lock()  # the heartbeat, the run and the delivery meet here
        self._delivery = Delivery(self._deliver)
        self._uploads = Uploads(database, self._delivery.progress)

    @contextmanager
    def _at_start(self) -> Iterator[None]:
        try:
            yield
        except DuplicateKeyError:
            raise
        except (PyMongoError, BSONError, ValueError, OverflowError) as error:
            self.close()
            raise ConfigError(
                f"-m {self.address}: MongoDB cannot be used ({reason(error)}): start it, correct "
                "the address, or record into files with -F DIR"
            ) from None

    # --- the start, which waits for the database -------------------------------------------------

    def highest_id(self) -> int:
        """The largest number that is the id of a run; text would sort above it."""
        with self._at_start():
            numbers = self._runs.find({"_id": {"$type": "number"}}, {"_id": 1})
            found = list(numbers.sort("_id", -1).limit(1))
        return int(found[0]["_id"]) if found else 0

    def claim(self, run_id: int | str) -> bool:
        """Take `run_id` as the run's id; False where another run has it."""
        try:
            with self._at_start():
                self._runs.insert_one({"_id": _plain_id(run_id)})
        except DuplicateKeyError:
            return False
        return True

    def started_event(
        self,
        ex_info: Any,
        command: str,
        host_info: Any,
        start_time: datetime,
        config: Any,
        meta_info: Any,
        _id: str,
    ) -> Any:
        self._sources = ex_info["sources"]
        self._entry = {
            "_id": _plain_id(_id),
            "experiment": {**finite(flatten(ex_info)), "sources": []},
            "format": "MongoObserver-0.7.0",
            "command": command,
            "host": finite(flatten(host_info)),
            "start_time": start_time,
            "config": finite(flatten(config)),
            "meta": finite(flatten(meta_info)),
            "status": "RUNNING",
            "resources": [],
            "artifacts": [],
            "captured_out": "",
            "info": {},
            "heartbeat": None,
            "result": None,
        }
        try:
            with self._at_start():
                self._send_document()
        except ConfigError:
            self._entry = {}  # the run never starts: nothing of it is owed
            raise
        self._delivery.start()
        self._delivery.owe(Kind.SOURCES)
        return _id

    # --- what follows, which does not ------------------------------------------------------------

    def _update(self, **values: Any) -> None:
        if not self._entry:
            return  # the run never started
        with self._writing:
            self._entry.update(values)
        self._delivery.owe(Kind.DOCUMENT)

    def heartbeat_event(
        self, info: Any, captured_out: str, beat_time: datetime, result: Any
    ) -> None:
        self._update(
            # Omniboard finds the metrics through `info`.
            info={**finite(flatten(info)), "metrics": self._metric_ids()},
            captured_out=captured_out[-OUTPUT_CHARACTERS:],
            heartbeat=beat_time,
            result=finite(flatten(result)),
        )

    def completed_event(self, stop_time: datetime, result: Any) -> None:
        result = finite(flatten(result))
        self._update(stop_time=stop_time, result=result, status="COMPLETED")

    def interrupted_event(self, interrupt_time: datetime, status: str) -> None:
        self._update(stop_time=interrupt_time, status=status)

    def failed_event(self, fail_time: datetime, fail_trace: list[str]) -> None:
        self._update(stop_time=fail_time, status="FAILED", fail_trace=fail_trace)

    def artifact_event(
        self, name: str, filename: Any, metadata: Any = None, content_type: Any = None
    ) -> None:
        self._delivery.owe(Kind.ARTIFACT, name)

    def log_metrics(self, metrics_by_name: dict[str, Any], info: Any) -> None:
        for name, new in metrics_by_name.items():
            with self._writing:
                curve = self._curves.setdefault(
                    name, {"_id": ObjectId(), "run_id": self._entry["_id"], "name": name}
                )
                for part in ("steps", "values", "timestamps"):
                    curve[part] = curve.get(part, []) + new[part]
            self._delivery.owe(Kind.METRIC, name)

    def join(self) -> None:
        """Wait for the database, as long as it gets on."""
        if self._entry:
            self._delivery.finish()

    def missing(self) -> str | None:
        """Why the database lacks part of the record; None when it has all."""
        return self._delivery.missing() if self._entry else None

    def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            self._client.close()

    # --- on the delivery's thread ----------------------------------------------------------------

    def _deliver(self, kind: Kind, name: str) -> None:
        try:
            if kind is Kind.SOURCES:
                self._send_sources()
            elif kind is Kind.METRIC:
                self._send_metric(name)
            elif kind is Kind.ARTIFACT:
                self._send_artifact(name)
            else:
                self._send_document()
        except PyMongoError as error:
            if isinstance(error, ConnectionFailure) or error.timeout:
                raise ConnectionError(reason(error)) from None
            raise

    def _send_document(self) -> None:
        with self._writing:
            update = {k: v for k, v in self._entry.items() if self._sent.get(k, self) != v}
        self._runs.update_one({"_id": self._entry["_id"]}, {"$set": update}, upsert=True)
        self._sent.update(update)

    def _send_metric(self, name: str) -> None:
        # Whole, not only what is new: after a timeout nobody knows what the server has.
        with self._writing:
            curve = {**self._curves[name]}
        curve["values"] = plain(curve["values"])
        self._metrics.replace_one({"_id": curve["_id"]}, curve, upsert=True)

    def _metric_ids(self) -> list[dict[str, str]]:
        with self._writing:
            return [{"name": k, "id": str(curve["_id"])} for k, curve in self._curves.items()]

    def _send_sources(self) -> None:
        stored = []
        for name, path in self._sources:
            # The name of a stored source contains its digest: one upload serves all runs.
            file_id = self._uploads.once(path, Path(self.files.basedir, path))
            stored.append([name, file_id])
        self._update(experiment={**self._entry["experiment"], "sources": stored})

    def _send_artifact(self, name: str) -> None:
        filename = f"artifact://{self._runs.name}/{self._entry['_id']}/{name}"
        new = self._uploads.add(filename, Path(self.files.dir, name))
        others = [entry for entry in self._entry["artifacts"] if entry["name"] != name]
        self._update(artifacts=[*others, {"name": name, "file_id": new}])
        # The document first: whoever follows it finds one of the two versions.
        self._send_document()
        self._uploads.keep_only(filename, new)


def _plain_id(run_id: int | str) -> int | str:
    """Sacred's ids are numbers; text among them would break the count of other programs."""
    return int(run_id) if str(run_id).isdigit() else run_id
