"""A file observer whose files are whole and strict JSON, whatever happens."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llc.tracking.quiet_sacred import FileStorageObserver, flatten, get_digest

if TYPE_CHECKING:
    from llc.tracking.mongo import MongoMirror

OWN_FILES = {"run.json", "config.json", "info.json", "metrics.json", "cout.txt"}


class WholeFileObserver(FileStorageObserver):  # type: ignore[misc]  # Sacred has no types
    """Sacred's file observer, except in how it writes.

    Sacred opens `run.json` for writing at every heartbeat and writes NaN as `NaN`. So a full disk
    or a kill at the wrong moment leaves an empty record, and no strict reader takes the rest.
    Here a file is replaced by a complete one, and what is not finite is null.
    """

    temporary = False  # whether the files go once a database has them
    mirror: MongoMirror | None = None  # a database that gives the run the same id

    def __init__(self, basedir: Any, *, temporary: bool = False) -> None:
        super().__init__(basedir)
        self.temporary = temporary
        # The heartbeat thread and the main thread write the same files.
        self._writing = threading.RLock()

    def _make_run_dir(self, _id: str | None) -> None:
        """Make the run's directory: `_id`, or the next number that is free here and in the mirror.

        Many runs may do so at once: `mkdir` and the mirror's unique key decide.
        """
        if _id is not None or self.mirror is None:
            super()._make_run_dir(_id)
            return
        os.makedirs(self.basedir, exist_ok=True)
        while True:
            number = 1 + max(self._maximum_existing_run_id(), self.mirror.highest_id())
            try:
                self._make_dir(number)
            except FileExistsError:
                continue
            if self.mirror.claim(number):
                return
            os.rmdir(self.dir)

    def heartbeat_event(self, info: Any, captured_out: str, beat_time: Any, result: Any) -> None:
        with self._writing:
            super().heartbeat_event(info, captured_out, beat_time, result)

    def artifact_event(
        self, name: str, filename: Any, metadata: Any = None, content_type: Any = None
    ) -> None:
        """Store an artifact; one that is written again replaces the earlier one in the list."""
        with self._writing:
            names = self.run_entry["artifacts"]
            if name in names:
                names.remove(name)
            super().artifact_event(name, filename, metadata, content_type)

    def save_json(self, obj: Any, filename: str) -> None:
        """Write `obj` to `filename` in the run directory, whole or not at all."""
        path = Path(self.dir, filename)
        part = path.with_name(f".{filename}.part")
        with self._writing:
            text = json.dumps(finite(flatten(obj)), sort_keys=True, indent=2, allow_nan=False)
            part.write_text(text, encoding="utf-8")
            part.replace(path)

    def save_file(self, filename: Any, target_name: str | None = None) -> None:
        """Copy a file into the run directory, whole or not at all."""
        name = target_name or Path(filename).name
        if name in OWN_FILES:
            raise FileExistsError(f"{name} belongs to the record: choose another name")
        _copy(filename, Path(self.dir, name))

    def find_or_save(self, filename: Any, store_dir: Path) -> Path:
        """Copy a source to the directory that runs share, unless one of them has done so."""
        source = Path(filename)
        stored = store_dir / f"{source.stem}_{get_digest(filename)}{source.suffix}"
        if not stored.exists():
            store_dir.mkdir(parents=True, exist_ok=True)
            _copy(source, stored)
        return stored


def _copy(source: Any, target: Path) -> None:
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
    os.close(handle)
    try:
        shutil.copyfile(source, part)
        shutil.copymode(source, part)
        os.replace(part, target)
    except BaseException:
        os.unlink(part)
        raise


def finite(obj: Any) -> Any:
    """`obj` with None for every number that is not finite."""
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, dict):
        return {key: finite(value) for key, value in obj.items()}
    return [finite(value) for value in obj] if isinstance(obj, list) else obj
