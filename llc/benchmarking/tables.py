"""Summaries as tables: for a terminal, for a page, and one row a run for a spreadsheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llc.benchmark_problem import Target
from llc.benchmarking.runs import Run
from llc.benchmarking.statistics import Summary, target_of

Rows = list[dict[str, str]]

KINDS = {
    "exact": "exact at this n, β, γ",
    "reference": "a long HMC run",
    "pooled": "the exact samplers' runs that are `ok`, pooled; none is its own judge",
    "lambda": "λ, the limit for large n: part of a difference may be the finite n",
}
LEGEND = """\
λ̂ ± SE: mean over the seeds and its standard error from their spread (of a single seed: its own).
SD/SE: the spread between seeds over the standard error that a run gives itself; above 1 the runs
are too sure of themselves. bias/SE: mean error over its standard error; * where a bias is certain
to 99 % by the spread (Student's t) and by the runs' own errors alike. rms: √(spread² + bias²),
relative, the bias freed of its own error. 1 %: seconds for that to be 1 %, (rms/1 %)² × seconds of
a run; where a bias is certain (>) no longer run removes it. WNV: (spread between seeds)² × cost,
in seconds and in gradients over all data (FDE); it does not see a bias. ESS/s, ESS/FDE: medians.
R-hat: the largest. Seconds and FDE include warm-up and burn-in."""


def heading(runs: Sequence[Run]) -> str:
    """What a family is of, and what its runs are compared with."""
    config, target = runs[0].config, target_of(runs)
    ended = next((run for run in runs if "num_params" in run.info), None)  # it knows the sizes
    size = f", {ended.info['num_params']} parameters" if ended else ""
    known = ended.value("true_lambda") if ended else math.nan
    problem = (ended or runs[0]).problem
    limit = "" if math.isnan(known) else f"; λ = {known:g}"
    return (
        f"{problem}{size}, n = {config.num_training_data}, "
        f"γ = {config.sgld_config.gamma:g}: {target_words(target)}{limit}"
    )


def target_words(target: Target) -> str:
    """The value that λ̂ is compared with, and where it comes from."""
    if target.value is None:
        return "nothing to compare with"
    error = f" ± {target.error:.2g}" if target.error > 0 else ""
    return f"compared with {target.value:.4g}{error} ({KINDS[target.kind]})"


def rows(summaries: Sequence[Summary]) -> Rows:
    """A row a sampler."""
    return [_row(own) for own in summaries]


def _row(own: Summary) -> dict[str, str]:
    single = len(own.done) < 2
    return {
        "sampler": own.label,
        "seeds": f"{len(own.done)}",
        "λ̂ ± SE": f"{_number(own.mean)} ± {_number(own.standard_error, 2)}" if own.done else "–",
        "error": _percent(own.bias / own.target.value if own.target.value else math.nan),
        "bias/SE": _number(own.z_score, 2, "+") + ("*" if own.is_biased else ""),
        "SD/SE": "–" if single else _number(_ratio(own.deviation, own.own_error), 2),
        "rms": _percent(own.rms_error, ""),
        "1 % (s)": (">" if own.is_biased else "") + _number(own.cost()),
        "ESS/s": _number(own.median("ess_per_second")),
        "ESS/FDE": _number(own.median("ess_per_fde")),
        "WNV (s)": _number(own.wnv_time),
        "WNV (FDE)": _number(own.wnv_fde),
        "R-hat": _number(own.largest("rhat"), 4),
        "seconds": _number(own.seconds, 2),
        "runs": ", ".join(f"{count} {word}" for word, count in own.statuses.most_common()),
    }


def _number(value: float, digits: int = 3, sign: str = "") -> str:
    return f"{value:{sign}.{digits}g}" if math.isfinite(value) else "–"


def _percent(value: float, sign: str = "+") -> str:
    return f"{value:{sign}.1%}" if math.isfinite(value) else "–"


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.nan


def text(table: Rows) -> str:
    """Aligned columns, the first and the last to the left."""
    names = list(table[0])
    lines = [dict(zip(names, names, strict=True)), *table]
    widths = {name: max(len(line[name]) for line in lines) for name in names}

    def cell(line: Mapping[str, str], name: str) -> str:
        left = name in (names[0], names[-1])
        return f"{line[name]:{'<' if left else '>'}{widths[name]}}"

    return "\n".join("  ".join(cell(line, name) for name in names).rstrip() for line in lines)


def markdown(table: Rows) -> list[str]:
    """The lines of a table in Markdown."""
    names = list(table[0])
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in table)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


CSV_KEYS = (
    "llc_mean", "llc_se", "target_llc", "target_se", "target_kind", "relative_error", "z_score",
    "ess", "rhat", "ess_per_second", "ess_per_fde", "wnv_time", "wnv_fde",
    "fde", "fde_calibration", "fde_warmup", "fde_companions", "timing_build",
    "timing_calibration", "timing_warmup", "timing_sampling", "timing_companions",
    "acceptance", "step_size", "step_size_bias", "num_diverged_chains", "llc_status",
    "num_params", "true_lambda", "run_hash", "code_version",
)  # fmt: skip


def record(run: Run) -> dict[str, Any]:
    """A run as one row of a CSV file, whatever became of it."""
    return {
        "run": run.found.where,
        "outcome": run.outcome,
        "why": "" if run.outcome in ("done", "running", "repeat") else run.why,
        "family": run.family,
        "problem": run.problem,
        "sampler": run.sampler,
        "setting": run.setting_hash,
        "seed": run.seed,
        **{key: run.info.get(key) for key in CSV_KEYS},
    }
