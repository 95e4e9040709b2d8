"""Files in GridFS, of which each name has one version."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gridfs
from bson import ObjectId
from pymongo.errors import OperationFailure

PIECE_BYTES = 1 << 20


class Uploads:
    """Uploads to the GridFS of `database`; `progress` is called along the way."""

    def __init__(self, database: Any, progress: Callable[[], None]) -> None:
        self._fs, self._progress = gridfs.GridFS(database), progress
        self._torn: set[ObjectId] = set()  # cut off by an error: their pieces are still there

    def once(self, filename: str, path: Path) -> Any:
        """The id of `filename`, which is uploaded unless it is there."""
        there = self._fs.find_one({"filename": filename})
        return there._id if there else self.add(filename, path)

    def add(self, filename: str, path: Path) -> ObjectId:
        """Upload `path` as one more version of `filename`; return its id."""
        file_id, content_type = ObjectId(), mimetypes.guess_type(path.name)[0]
        with path.open("rb") as file:
            self._torn.add(file_id)
            with self._fs.new_file(
                _id=file_id, filename=filename, content_type=content_type
            ) as target:
                while piece := file.read(PIECE_BYTES):
                    target.write(piece)
                    self._progress()
        self._torn.remove(file_id)
        for torn in list(self._torn):
            with suppress(OperationFailure):  # nothing of it arrived
                self._fs.delete(torn)
            self._torn.remove(torn)
        return file_id

    def keep_only(self, filename: str, file_id: ObjectId) -> None:
        """Delete every other version of `filename`."""
        for version in self._fs.find({"filename": filename}):
            if version._id != file_id:
                self._fs.delete(version._id)
