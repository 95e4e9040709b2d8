"""Which runs need not be made again."""

from __future__ import annotations

import os

from llc.benchmarking.runs import EXPERIMENT, place
from llc.records import life
from llc.records.reading import read


def completed(where: str) -> set[str]:
    """The `run_hash` of every completed run at a directory or `host:port:database`.

    Also of those without λ̂: they would end without it again.

    Raises:
        SourceError: for a database that does not answer.
    """
    if ":" not in where and not os.path.isdir(where):
        return set()  # no run has begun
    found, _ = read(place(where))
    return {
        str(run.info["run_hash"])
        for run in found
        if run.experiment == EXPERIMENT
        and life.status(run.run) == "COMPLETED"
        and "run_hash" in run.info
    }
