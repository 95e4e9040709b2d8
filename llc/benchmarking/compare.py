"""`python -m llc compare SOURCE…`: all samplers of a family side by side."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llc.benchmarking.runs import Run, load
from llc.benchmarking.statistics import Summary, families, summarise, target_of
from llc.benchmarking.tables import LEGEND, heading, record, rows, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLE = "example: python -m llc compare outputs/samplers localhost:27017:samplers --csv runs.csv"


def main(argv: Sequence[str]) -> int:
    """Print a table a family, and what has no λ̂; write the CSV file and the figure asked for.

    Raises:
        ValueError: in one line, for a source that is not there or holds no benchmark run.
    """
    options = _parser().parse_args(argv)
    runs, unread = load(options.source)
    if not runs and not unread:
        raise ValueError(f"{' '.join(options.source)}: no runs of expt_sampler_benchmark.py there")
    grouped = families(runs)
    summaries = {family: summarise(own) for family, own in grouped.items()}
    for family, own in grouped.items():
        print(f"{heading(own)} [family {family}]\n{text(rows(summaries[family]))}\n")
    print(LEGEND)
    print(*counts(runs, unread), sep="\n")
    if options.csv:
        write_csv(runs, options.csv)
    if options.figure:
        draw(grouped, summaries, options.figure)
    return 0


def counts(runs: Sequence[Run], unread: Sequence[str]) -> list[str]:
    """How many runs there are, and a line for each that has no λ̂."""
    without = [run for run in runs if run.outcome not in ("done", "repeat")]
    repeats = sum(run.outcome == "repeat" for run in runs)
    again = f", {repeats} of them made again later and not counted" if repeats else ""
    return [
        f"{len(runs)} runs{again}, {len(without)} without λ̂; {len(unread)} cannot be read",
        *(f"{run.outcome}: {run.found.where} ({run.sampler}): {run.why}" for run in without),
        *(f"not read: {line}" for line in unread),
    ]


def write_csv(runs: Sequence[Run], path: Path) -> None:
    """One row a run, those without λ̂ included.

    Raises:
        ValueError: where it cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(record(runs[0])) if runs else [])
            writer.writeheader()
            writer.writerows(map(record, runs))
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from None


def draw(grouped: dict[str, list[Run]], summaries: dict[str, list[Summary]], path: Path) -> None:
    """The figure of all families.

    Raises:
        ValueError: where it cannot be written.
    """
    from llc.benchmarking.figures import comparison_figure  # matplotlib takes half a second

    titled = [(title(own), summaries[name]) for name, own in grouped.items()]
    try:
        comparison_figure(titled).savefig(path, dpi=110)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from None


def side_by_side(runs: Sequence[Run], columns: int = 1) -> Figure:
    """The figure of all families of `runs`, `columns` of them beside each other."""
    from llc.benchmarking.figures import comparison_figure

    grouped = families(runs).values()
    return comparison_figure([(title(own), summarise(own)) for own in grouped], columns)


def title(runs: Sequence[Run]) -> str:
    """Of a family's panels; says so where the errors are against λ for want of something better."""
    against = ", against λ" if target_of(runs).kind == "lambda" else ""
    return heading(runs).partition(":")[0] + against


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llc compare",
        description="All samplers of each family of benchmark runs side by side.",
        epilog=EXAMPLE,
    )
    parser.add_argument("source", nargs="+", help="a directory, or host:port:database")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="also write one row a run")
    parser.add_argument("--figure", metavar="FILE", type=Path, help="also draw errors and costs")
    return parser
