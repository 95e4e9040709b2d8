"""The runs of several places, each of them once."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable
from datetime import datetime

from llc.records.life import EVER, moment, started
from llc.records.sources import Broken, Found, Source


def read(*sources: Source) -> tuple[list[Found], list[Broken]]:
    """Every run of `sources`, and what cannot be read there.

    Directories may overlap, and a run that recorded with `-m` stands in files and in the database:
    of its two records the one that knows more counts, and of equals the files.
    """
    runs: dict[Hashable, Found] = {}
    broken: set[Broken] = set()
    for source in sources:
        for found in source.runs():
            if isinstance(found, Broken):
                broken.add(found)
            else:
                place = os.path.realpath(found.directory) if found.directory else found.source
                runs.setdefault((place, found.id), found)
    return _merged(list(runs.values())), sorted(broken)


def _merged(runs: list[Found]) -> list[Found]:
    in_files = {identity(run): k for k, run in enumerate(runs) if _is_mirrored(run)}
    merged: list[Found | None] = [*runs]
    for k, run in enumerate(runs):
        twin = in_files.get(identity(run)) if in_files and run.directory is None else None
        if twin is not None:
            merged[twin if _heard(run) > _heard(runs[twin]) else k] = None
    return [run for run in merged if run is not None]


def _is_mirrored(run: Found) -> bool:
    """Whether these are files of a run that went to a database as well."""
    options = (run.run.get("meta") or {}).get("options") or {}
    return run.directory is not None and bool(options.get("--mongo_db"))


def identity(run: Found) -> Hashable:
    """What the files and the database tell alike of one run, and of no other."""
    host = (run.run.get("host") or {}).get("hostname")
    config = json.dumps(run.config, sort_keys=True, default=str)
    return run.id, run.experiment, host, started(run.run), config


def _heard(run: Found) -> datetime:
    # The last heartbeat may come before or after the end.
    times = (moment(run.run.get(key)) for key in ("start_time", "heartbeat", "stop_time"))
    return max((time for time in times if time), default=EVER)
