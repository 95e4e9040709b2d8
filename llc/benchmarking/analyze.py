"""`python -m llc analyze RUN…`: figure and summary of recorded runs again, without sampling."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llc import diagnostics
from llc.benchmark_figures import Chains, diagnostics_figure
from llc.benchmarking.runs import Run, load
from llc.benchmarking.tables import text
from llc.records import traces

EXAMPLE = "example: python -m llc analyze outputs/samplers/7 outputs/samplers/8 --burn-in 0.9"


def main(argv: Sequence[str]) -> int:
    """Print a table with a row a run, and draw the panels of each that has traces.

    Raises:
        ValueError: in one line, for a run that is not there.
    """
    options = _parser().parse_args(argv)
    runs, unread = load(options.run)
    if not runs and not unread:
        raise ValueError(f"{' '.join(options.run)}: no runs of expt_sampler_benchmark.py there")
    if runs:
        print(text([row for run in runs for row in _analysed(run, options.burn_in, options.to)]))
    print(*(f"not read: {line}" for line in unread), sep="\n", end="\n" if unread else "")
    return 0


def _analysed(run: Run, burn_in: float | None, to: Path) -> Iterator[dict[str, str]]:
    """The row of a run; draws its figure."""
    chains = read_chains(run, burn_in)
    target = run.info.get("target_llc")
    row = {"run": run.found.where, "sampler": run.sampler, "seed": str(run.seed)}
    if chains is None:
        yield {**row, **dict.fromkeys((*NUMBERS, "figure"), "–"), "status": run.why}
        return
    path = to / f"diagnostics-{Path(run.found.place).name}-{run.found.id}.png"
    title = f"{run.sampler} on {run.problem}, seed {run.seed}"
    try:
        to.mkdir(parents=True, exist_ok=True)
        diagnostics_figure(chains, target, title).savefig(path, dpi=120)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from None
    numbers = summary(chains, target)
    shown = {key: f"{v:.4g}" if math.isfinite(v) else "–" for key, v in numbers.items()}
    yield {**row, **shown, "figure": str(path), "status": str(run.info.get("llc_status"))}


NUMBERS = ("λ̂", "SE", "compared with", "error (%)", "ESS", "R-hat", "kept draws")


def summary(chains: Chains, target: float | None) -> dict[str, float]:
    """λ̂ and its diagnostics from the draws; NaN where a chain diverged."""
    kept = chains.kept
    mean = error = ess = rhat = math.nan
    if not chains.num_left_out:
        mean, error = diagnostics.mean_and_error(kept)
        ess, rhat = diagnostics.ess(kept), diagnostics.rhat(kept)
    known = math.nan if target is None else target
    relative = 100 * (mean / known - 1) if known else math.nan
    values = (mean, error, known, relative, ess, rhat, kept.size)
    return dict(zip(NUMBERS, values, strict=True))


def read_chains(run: Run, burn_in: float | None = None) -> Chains | None:
    """The chains of a run from its `traces.nc`; None where there is none.

    burn_in: the share of draws to leave out, instead of that of the run.
    """
    where = {"source": run.found.source, "id": run.found.id, "directory": run.found.directory}
    try:
        data: Any = traces(where)
    except (FileNotFoundError, KeyError):
        return None
    draws = np.asarray(data["llc"].values, dtype=float)
    recorded = int(data.attrs.get("num_burn_in", run.info.get("num_burn_in", 0)))
    energy = data.get("energy")
    return Chains(
        data["draw"].values,
        draws,
        recorded if burn_in is None else int(burn_in * draws.shape[1]),
        None if "distance" not in data else data["distance"].values.astype(float),
        None if energy is None else data["checked"].values,
        None if energy is None else energy.values.astype(float),
        None if "w" not in data else data["w"].values.astype(float),
    ).finite()


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise ValueError
    return value


_share.__name__ = "share (at least 0, below 1)"  # argparse says it in its message


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llc analyze",
        description="Figure and summary of recorded benchmark runs, from their traces.",
        epilog=EXAMPLE,
    )
    parser.add_argument(
        "run", metavar="RUN", nargs="+", help="run directory; a directory or database: all of it"
    )
    parser.add_argument(
        "--to", metavar="DIR", type=Path, default=Path("outputs/analysis"), help="for the figures"
    )
    parser.add_argument(
        "--burn-in", metavar="SHARE", type=_share, help="instead of that of the runs"
    )
    return parser
