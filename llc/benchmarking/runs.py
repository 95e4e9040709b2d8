"""Runs of the sampler benchmark as they were recorded, whatever became of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from llc.config import BenchmarkConfig, ConfigError, parse
from llc.config.benchmark import short_hash
from llc.records import life
from llc.records.reading import read
from llc.records.sources import Found, Source, open_source
from llc.tracking.places import read_address

EXPERIMENT = "sampler_benchmark"


@dataclass(frozen=True)
class Run:
    """One run; `info` is empty where it did not come to an end."""

    found: Found
    config: BenchmarkConfig
    outcome: str  # done, not finite, failed, interrupted, dead, running; repeat: done again later

    @property
    def family(self) -> str:
        return self.config.family

    @property
    def sampler(self) -> str:
        """Its name and variant."""
        return self.config.sampler

    @property
    def seed(self) -> int:
        """Of the chains."""
        return self.config.seed

    @property
    def problem(self) -> str:
        """In the words of the run itself where it came to an end."""
        own = self.config.problem_config
        size = "" if own.target_params is None else f" {own.target_params}"
        return str(self.info.get("problem") or own.name + size)

    @cached_property
    def setting(self) -> Mapping[str, Any]:
        """What the sampler reads, without target and seed."""
        values = self.config.reads()
        return {key: values[key] for key in values if key not in ("target", "seed")}

    @property
    def info(self) -> Mapping[str, Any]:
        return self.found.info

    @cached_property
    def setting_hash(self) -> str:
        """Names the sampler with everything it reads."""
        return short_hash(self.setting)

    @property
    def why(self) -> str:
        """What is to be said of a run that is not done."""
        if self.outcome == "not finite":
            return str(self.info.get("llc_status"))
        trace = self.found.run.get("fail_trace") or [self.outcome]
        return str(trace[-1]).strip()

    def value(self, key: str) -> float:
        """A number from `info`; NaN where there is none."""
        number = self.info.get(key)
        return float(number) if isinstance(number, (int, float)) else math.nan

    @property
    def seconds(self) -> float:
        """What the estimate took, search and warm-up included; not the problem or companions."""
        parts = ("timing_calibration", "timing_warmup", "timing_sampling")
        return sum(map(self.value, parts))


def place(name: str) -> Source:
    """The runs of a directory, of `host:port:database` or of a whole `mongodb://` URL.

    Raises:
        SourceError: where it is not there; ConfigError where it cannot be understood.
    """
    if "://" not in name and ":" in name and not os.path.isdir(name):
        return open_source(read_address(name).url)
    return open_source(name)


def load(sources: Iterable[str]) -> tuple[list[Run], list[str]]:
    """Every benchmark run of `sources`, and a line for each that cannot be read.

    Of several completed runs of one family, setting and seed the latest counts; the others are
    repeats.
    """
    found, broken = read(*map(place, sources))
    unread = [f"{where}: {why}" for where, why in broken]
    runs = []
    for one in found:
        if one.experiment != EXPERIMENT:
            continue
        try:
            runs.append(_run(one))
        except ConfigError as error:
            unread.append(f"{one.where}: of another version: {error}")
    return _without_repeats(runs), unread


def _run(found: Found) -> Run:
    # Whether its device exists here does not matter any more.
    config = parse(BenchmarkConfig, {**found.config, "device": "auto"})
    config = replace(config, device=str(found.config.get("device", "auto")))
    return Run(found, config, outcome(found))


def outcome(found: Found) -> str:
    """What became of a run, in a word or two."""
    status = life.status(found.run)
    if status != "COMPLETED":
        return status.lower()
    mean = found.info.get("llc_mean")
    return "done" if isinstance(mean, (int, float)) and math.isfinite(mean) else "not finite"


def _without_repeats(runs: Sequence[Run]) -> list[Run]:
    latest: dict[tuple[str, str, int], Run] = {}

    def when(run: Run) -> datetime:
        return life.started(run.found.run) or life.EVER

    for run in sorted(runs, key=when):
        if run.found.run["status"] == "COMPLETED":
            latest[run.family, run.setting_hash, run.seed] = run
    return [
        replace(run, outcome="repeat")
        if run.found.run["status"] == "COMPLETED"
        and latest[run.family, run.setting_hash, run.seed] is not run
        else run
        for run in runs
    ]
