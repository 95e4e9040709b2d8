"""What became of the lines of a command file, read from where they record.

A run belongs to a line when experiment and configuration agree, all keys of it. So a line is
recognised whoever started it, and however often.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from llc.commands import files
from llc.commands.plans import Place, Plan, digest_of_record, plan
from llc.records import life
from llc.records.files import Directory
from llc.records.reading import read
from llc.records.sources import Found, Source, open_source
from llc.tracking.places import without_passwords

AGAIN = ("missing", "failed", "interrupted")
STATES = {"COMPLETED": "done", "RUNNING": "running", "INTERRUPTED": "interrupted"}  # else: failed


class Line(NamedTuple):
    """A line of a command file: done, running, interrupted, failed or missing, and why."""

    text: str
    state: str
    note: str = ""


def main(argv: Sequence[str]) -> int:
    """Print what became of each line of a command file; write what must run again."""
    parser = argparse.ArgumentParser(
        prog="llc status",
        description="Tell what became of each line of FILE. Start this where the lines were "
        "started: their paths are relative.",
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument(
        "--failed", metavar="PATH", type=Path, help="write a command file of what must run again"
    )
    arguments = parser.parse_args(argv)
    lines = status(files.read(arguments.file))
    for number, line in enumerate(lines, 1):
        print(f"{number:>6}  {line.state:<11}  {line.note}".rstrip())
    counts = Counter(line.state for line in lines)
    print(f"{len(lines)} lines: {', '.join(f'{n} {state}' for state, n in sorted(counts.items()))}")
    again = [line.text for line in lines if line.state in AGAIN]
    if arguments.failed and again:
        files.write(again, arguments.failed)
        print(f"to run again:\n  {files.submission(arguments.failed, len(again))}")
    return 0


def status(texts: Sequence[str]) -> list[Line]:
    """What became of each line; records that cannot be read are named on stderr.

    Raises:
        ValueError: in one line, for a line that runs no experiment or records none, and for a
            database that does not answer.
    """
    experiments: dict[str, object] = {}
    plans = [plan(number, text, experiments) for number, text in enumerate(texts, 1)]
    runs = _runs([one for one in plans if isinstance(one, Plan)])
    return [
        _line(text, runs.get((one.place, one.digest), []))
        if isinstance(one, Plan)
        else Line(text, "failed", without_passwords(one))
        for text, one in zip(texts, plans, strict=True)
    ]


def _runs(plans: Iterable[Plan]) -> Mapping[tuple[Place, str], list[Found]]:
    """The runs at each place, by digest."""
    runs: defaultdict[tuple[Place, str], list[Found]] = defaultdict(list)
    classes = {(one.place, one.name): one.config_class for one in plans}
    for place in dict.fromkeys(place for place, _ in classes):
        found, broken = read(*_sources(place))
        for where, why in broken:
            print(f"{where}: cannot be read, left out: {why}", file=sys.stderr)
        for run in found:
            if config_class := classes.get((place, run.experiment)):
                runs[place, digest_of_record(run.experiment, run.config, config_class)].append(run)
    return runs


def _sources(place: Place) -> Iterator[Source]:
    if place.directory is not None and os.path.isdir(place.directory):  # else no run has begun
        yield Directory(place.directory, nested=False)
    if place.database is not None:
        yield open_source(place.database)


def _line(text: str, runs: list[Found]) -> Line:
    if not runs:
        return Line(text, "missing")
    # A run that succeeded or is under way counts before any later one.
    counting = max(runs, key=lambda run: (*_rank(_state(run)), life.started(run.run) or life.EVER))
    why = _why(counting)
    return Line(text, _state(counting), f"{counting.where} ({why})" if why else counting.where)


def _rank(state: str) -> tuple[bool, bool]:
    return state == "done", state == "running"


def _state(run: Found) -> str:
    return STATES.get(life.status(run.run), "failed")


def _why(run: Found) -> str:
    """What is to be said of how a run stands."""
    match life.status(run.run):
        case "COMPLETED":
            return "" if run.run.get("result") is not None else "without λ̂"
        case "DEAD":
            return f"no sign of life since {life.last_sign(run.run):%F %T} UTC"
        case "RUNNING" | "INTERRUPTED":
            return ""
        case other:
            return str((run.run.get("fail_trace") or [other])[-1]).strip()
