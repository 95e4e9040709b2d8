"""A file observer whose files are whole and strict JSON, whatever happens."""

from __future__ import annotations

import json
import math
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from llc.config import ConfigError
from llc.tracking.quiet_sacred import FileStorageObserver, flatten


class WholeFileObserver(FileStorageObserver):  # type: ignore[misc]  # Sacred has no types
    """Sacred's file observer, except in how it writes JSON.

    Sacred opens `run.json` for writing at every heartbeat and writes NaN as `NaN`. So a full disk
    or a kill at the wrong moment leaves an empty record, and no strict reader takes the rest.
    Here a file is replaced by a complete one, and what is not finite is null.
    """

    # The heartbeat thread and the main thread write the same files.
    _writing = threading.Lock()

    def artifact_event(
        self, name: str, filename: Any, metadata: Any = None, content_type: Any = None
    ) -> None:
        """Store an artifact; one that is written again replaces the earlier one in the list."""
        names = self.run_entry["artifacts"]
        if name in names:
            names.remove(name)
        super().artifact_event(name, filename, metadata, content_type)

    def save_json(self, obj: Any, filename: str) -> None:
        """Write `obj` to `filename` in the run directory, whole or not at all."""
        path = Path(self.dir, filename)
        part = path.with_name(f".{filename}.part")
        with self._writing:
            text = json.dumps(_finite(flatten(obj)), sort_keys=True, indent=2, allow_nan=False)
            part.write_text(text, encoding="utf-8")
            part.replace(path)


def _finite(obj: Any) -> Any:
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, dict):
        return {key: _finite(value) for key, value in obj.items()}
    return [_finite(value) for value in obj] if isinstance(obj, list) else obj


def prepare_observers(run: Any) -> None:
    """Check that every file observer of `run` can write, and make it one that writes whole files.

    Raises:
        ConfigError: naming the directory and what stands in the way.
    """
    if run.unobserved:
        return
    for i, observer in enumerate(run.observers):
        if isinstance(observer, FileStorageObserver):
            _check_writable(observer.basedir, run._id)
        if type(observer) is FileStorageObserver:
            run.observers[i] = WholeFileObserver(observer.basedir)


def _check_writable(directory: str, run_id: str | None) -> None:
    try:
        os.makedirs(directory, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"x")
    except OSError as error:
        why = error.strerror or str(error)
        remedy = "choose another directory"
        raise ConfigError(f"-F {directory}: cannot be written ({why}): {remedy}") from None
    if run_id is not None and os.path.exists(os.path.join(directory, run_id)):
        raise ConfigError(
            f"-i {run_id}: {directory} already holds a run of this id: choose another"
        )


def incomplete_record(run: Any) -> str | None:
    """Say which record of `run` is not whole, or return None.

    Sacred drops an observer after its first failure and lets the run go on; an observer that
    fails at the very end only leaves a line in the log.
    """
    for observer in run.observers:
        where = getattr(observer, "dir", None) or type(observer).__name__
        if any(observer is failed for failed in run._failed_observers):
            return f"the record in {where} is incomplete: its observer failed during the run"
        if isinstance(observer, FileStorageObserver) and _status(observer) != run.status:
            return f"the record in {where} does not say how the run ended: it could not be written"
    return None


def _status(observer: Any) -> Any:
    try:
        return json.loads(Path(observer.dir, "run.json").read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
