"""What became of the lines of a command file, read from the run directories they name.

A run belongs to a line when experiment and configuration agree, all keys of it. So a line is
recognised whoever started it, and however often.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from llc.commands import files
from llc.config import ConfigError, as_plain, parse
from llc.tracking import planned

STALE = timedelta(minutes=10)  # a run that lives tells so every ten seconds
AGAIN = ("missing", "failed", "interrupted")


class Record(NamedTuple):
    """A run on record."""

    experiment: str
    config: dict[str, Any]
    state: str
    started: str
    note: str


class Line(NamedTuple):
    """A line of a command file: done, running, interrupted, failed or missing, and why."""

    text: str
    state: str
    note: str = ""


class Plan(NamedTuple):
    """What a line would run, and where it would record it."""

    place: str
    experiment: Any
    digest: str


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
    """What became of each line.

    Raises:
        ValueError: in one line, for a line that runs no experiment or records none on disk.
    """
    experiments: dict[str, Any] = {}
    plans = [_plan(number, text, experiments) for number, text in enumerate(texts, 1)]
    known = [plan for plan in plans if isinstance(plan, Plan)]
    by_name = {plan.experiment.path: plan.experiment for plan in known}
    runs: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
    for place in dict.fromkeys(plan.place for plan in known):
        for record in records(place):
            runs[place, _digest_of(record, by_name)].append(record)
    return [
        _line(text, runs[plan.place, plan.digest])
        if isinstance(plan, Plan)
        else Line(text, "failed", plan)
        for text, plan in zip(texts, plans, strict=True)
    ]


def records(place: str) -> Iterator[Record]:
    """The runs recorded below the directory `place`; those that cannot be read are named."""
    for file in sorted(Path(place).glob("*/config.json")):
        directory = file.parent
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            run = json.loads((directory / "run.json").read_text(encoding="utf-8"))
            state, why = _state(run)
            note = f"{directory} ({why})" if why else str(directory)
            record = Record(run["experiment"]["name"], config, state, run["start_time"], note)
        except (OSError, ValueError, KeyError, TypeError):
            print(f"{directory}: cannot be read, left out", file=sys.stderr)
        else:
            yield record


def _plan(number: int, text: str, experiments: dict[str, Any]) -> Plan | str:
    """What a line would run, or why it cannot; `experiments` holds what is loaded already."""
    _, script, *arguments = [*files.words(text, number), ""]  # the script may be missing
    if not Path(script).is_file():
        raise ValueError(f"line {number}: {script or text}: there is no such script here")
    if script not in experiments:
        experiments[script] = _load(script)
    ex = experiments[script]
    try:
        config, options = planned(ex, [script, *arguments[:-1]])
    except ConfigError as error:
        return str(error)
    place = options["--file_storage"]
    if place is None:
        raise ValueError(f"line {number}: has no -F, and only run directories can be read")
    return Plan(place, ex, _digest(ex, config))


def _load(script: str) -> Any:
    """The experiment that a script defines as `ex`."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    module = importlib.util.module_from_spec(spec) if spec else None
    if spec is None or spec.loader is None or module is None:
        raise ValueError(f"{script}: is no Python script")
    spec.loader.exec_module(module)
    if not hasattr(getattr(module, "ex", None), "config_class"):
        raise ValueError(f"{script}: defines no experiment of llc")
    return module.ex


def _digest(ex: Any, config: dict[str, Any]) -> str:
    """A hash of experiment and configuration, keys at their defaults included."""
    # Whether a device exists is for the machine to say that runs the line.
    whole = as_plain(parse(ex.config_class, {**config, "device": "auto"}))
    whole["device"] = config["device"]
    text = json.dumps([ex.path, whole], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_of(record: Record, experiments: dict[str, Any]) -> str:
    """The digest of a record; empty where no line can have made it."""
    try:
        return _digest(experiments[record.experiment], record.config)
    except (KeyError, TypeError, ConfigError):  # another experiment, or another version of it
        return ""


def _state(run: dict[str, Any]) -> tuple[str, str]:
    """How a run stands, from its `run.json`, and why."""
    match run["status"]:
        case "COMPLETED":
            return "done", "" if run["result"] is not None else "without λ̂"
        case "INTERRUPTED":
            return "interrupted", ""
        case "RUNNING":
            last = run["heartbeat"] or run["start_time"]
            silent = datetime.now(UTC) - datetime.fromisoformat(last).replace(tzinfo=UTC)
            if silent > STALE:
                return "failed", f"no sign of life since {last} UTC"
            return "running", ""
        case other:
            return "failed", (run.get("fail_trace") or [other])[-1].strip()


def _line(text: str, runs: list[Record]) -> Line:
    if not runs:
        return Line(text, "missing")
    # A run that succeeded or is under way counts before any later one.
    counting = max(runs, key=lambda run: (run.state == "done", run.state == "running", run.started))
    return Line(text, counting.state, counting.note)
