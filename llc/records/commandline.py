"""`python -m llc runs SOURCE…`: the table of runs on a terminal."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from typing import Any

import pandas as pd

from llc.records.table import column, load_runs, read_value

FIRST = ["id", "experiment", "status", "started", "duration"]
LAST = ["lambdahat", "lambdahat_se", "true_lambda", "sgld_status"]
VARIED = 6  # columns of varied configuration that are shown unasked
EXAMPLE = "example: python -m llc runs runs mongodb://localhost:27017/sweep --filter seed=0"


def main(argv: list[str]) -> int:
    """Print the table, the counts and what is broken; 2 with one line for bad input."""
    options = _parser().parse_args(argv)
    try:
        runs = load_runs(*options.source, where=_where(options.filter))
        names = [column(runs, name) for name in options.columns] or _interesting(runs)
        if options.csv:
            (runs[names] if options.columns else runs).to_csv(options.csv, index=False)
    except (OSError, ValueError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    try:
        print(report(runs, names), flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def report(runs: Any, names: list[str]) -> str:
    """The table, how many runs have which status, and the runs that cannot be read."""
    lines = [_table(runs[names])] if len(runs) else []
    counts = Counter(runs["status"])
    words = [f"{count} {status}" for status, count in counts.most_common()]
    if superseded := int(runs["superseded"].sum()):
        words.append(f"of them {superseded} superseded")
    broken = runs.attrs["broken"]
    lines.append(f"{len(runs)} runs: {', '.join(words) or 'none'}; {len(broken)} broken")
    lines += [f"broken: {where}: {why}" for where, why in broken]
    return "\n".join(lines)


def _table(runs: Any) -> str:
    shown = runs.copy()
    for name in shown.columns:
        if isinstance(shown[name].dtype, pd.DatetimeTZDtype):
            shown[name] = shown[name].dt.strftime("%Y-%m-%d %H:%M")
    shown = shown.rename(columns=lambda name: name.removeprefix("config."))
    return str(shown.to_string(index=False, na_rep="–", float_format=lambda x: f"{x:.5g}"))


def _interesting(runs: Any) -> list[str]:
    """What runs are told apart by, and what they found."""
    config = [name for name in runs.columns if name.startswith("config.")]
    varied = [name for name in config if runs[name].astype(str).nunique() > 1]
    return [*FIRST, *varied[:VARIED], *(name for name in LAST if name in runs)]


def _where(filters: list[str]) -> dict[str, Any]:
    """`key=value` by key; a key that comes again holds alternatives.

    Raises:
        ValueError: for a filter that is something else.
    """
    where: dict[str, tuple[Any, ...]] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise ValueError(f"--filter {text}: must look like key=value")
        where[key] = (*where.get(key, ()), read_value(value))
    return where


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llc runs",
        description="All runs of directory trees and MongoDB databases, as one table.",
        epilog=EXAMPLE,
    )
    parser.add_argument("source", nargs="+", help="a directory, or mongodb://host:port/database")
    several: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    parser.add_argument("--filter", metavar="KEY=VALUE", **several, help="only runs with this")
    parser.add_argument("--columns", metavar="NAME", **several, help="show these columns")
    parser.add_argument("--csv", metavar="PATH", help="also write a CSV file, with all columns")
    return parser
