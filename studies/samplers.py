"""Which sampler gives the right λ̂, and at what cost? Writes `docs/samplers.md` and its picture.

    python -m studies.samplers [--study studies/samplers.yaml] [--page]

Runs what is missing of the study (two runs at a time, a thread each; a run that is recorded by this
version of the code is not made again), then writes the page; `--page` only writes it, from what is
recorded.

Every sampler has about the same time for sampling, with the step size from `epsilon=auto` where it
does not find its own. λ̂ is compared with the exact expectation at the same n, β and γ where there
is one; on networks, where there is none, with the pool of the exact samplers' runs that are `ok`,
from which the sampler in question is left out. The asymptotic λ is no judge: at these n the
expectation itself differs from it.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gen_commands_expt_sampler_benchmark import commands
from llc.benchmarking.compare import counts, draw
from llc.benchmarking.runs import Run, load
from llc.benchmarking.statistics import Summary, families, summarise
from llc.benchmarking.tables import LEGEND, Rows, heading, markdown, rows
from llc.commands.running import run_all
from llc.commands.studies import read_study
from studies.networks import machine_line

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "samplers.md"
PICTURE = PAGE.parent / "figures" / "samplers.png"
WORKERS = 2
AT_THIS_N = ("exact", "reference", "pooled")  # targets with which λ̂ should agree
CLOSE = 2.0  # times the least cost on a problem: as good as the best


def of_study(study: Path) -> tuple[list[Run], list[str]]:
    """The recorded runs of the study as it is now, in its order, and what is unread."""
    runs, unread = load([f"./outputs/{study.stem}/"])
    order = {run.config.run_hash(""): k for k, run in enumerate(read_study(study))}
    places = {id(run): order.get(run.config.run_hash("")) for run in runs}
    wanted = [run for run in runs if places[id(run)] is not None]
    return sorted(wanted, key=lambda run: places[id(run)] or 0), unread


def costs(summaries: Iterable[Summary]) -> dict[str, float]:
    """Seconds for 1 % by sampler, of those without a certain bias and with λ̂ in every run."""
    return {
        own.label: own.cost()
        for own in summaries
        if not own.is_biased and np.isfinite(own.cost()) and len(own.done) > 1 and not lost(own)
    }


def lost(own: Summary) -> int:
    """How many runs have no λ̂."""
    return sum(run.outcome not in ("done", "repeat") for run in own.runs)


def overview(summaries: Mapping[str, Sequence[Summary]]) -> Rows:
    """A row a sampler, over all problems."""
    least = {family: min(costs(own).values(), default=np.nan) for family, own in summaries.items()}
    labels = dict.fromkeys(own.label for of in summaries.values() for own in of)
    table = []
    for label in labels:
        mine = {f: own for f, of in summaries.items() for own in of if own.label == label}
        cost = {f: costs([own])[label] / least[f] for f, own in mine.items() if costs([own])}
        statuses = sum((own.statuses for own in mine.values()), Counter[str]())
        judged = [np.abs(own.errors) for own in mine.values() if own.target.kind in AT_THIS_N]
        errors = np.concatenate([*judged, np.empty(0)])
        table.append(
            {
                "sampler": label,
                "problems": str(len(mine)),
                "certainly biased on": str(sum(own.is_biased for own in mine.values())),
                "best, or within 2×, on": str(sum(ratio <= CLOSE for ratio in cost.values())),
                "cost over the best's, median": f"{np.median([*cost.values()]):.1f}×"
                if cost
                else "–",
                "median error": f"{np.median(errors):.1%}" if len(errors) else "–",
                "worst": f"{errors.max():.0%}" if len(errors) else "–",
                "runs without λ̂": str(sum(map(lost, mine.values()))),
                "`ok`": f"{statuses['ok']} of {statuses.total()}",
            }
        )
    return table


def verdict(table: Rows, summaries: Mapping[str, Sequence[Summary]]) -> list[str]:
    """What the table says, in words."""
    number = len(summaries)
    best = max(table, key=lambda row: int(row["best, or within 2×, on"]))
    clean = [row["sampler"] for row in table if row["certainly biased on"] == "0"]
    biased = [
        f"{row['sampler']} ({row['certainly biased on']})"
        for row in table
        if row["certainly biased on"] != "0"
    ]
    sure = [own for of in summaries.values() for own in of if len(own.done) > 1]
    ratio = np.median([own.deviation / own.own_error for own in sure if own.own_error > 0])
    return [
        f"- Cheapest for an error of 1 %, or within {CLOSE:g}× of it, most often: "
        f"**{best['sampler']}**, on {best['best, or within 2×, on']} of {number} problems.",
        f"- No certain bias anywhere: {', '.join(clean) or 'none'}. On some problems (how many): "
        f"{', '.join(biased) or 'none'}.",
        f"- Between seeds λ̂ varies {ratio:.2f} times as much as the runs' own standard errors say "
        "(median over samplers and problems).",
    ]


def page(study: Path, runs: Sequence[Run], unread: Sequence[str]) -> str:
    """The page; draws its picture."""
    grouped = families(runs)
    summaries = {family: summarise(own) for family, own in grouped.items()}
    table = overview(summaries)
    draw(grouped, summaries, PICTURE)
    seeds = len({run.seed for run in runs})
    versions = {str(run.info["code_version"]) for run in runs if "code_version" in run.info}
    lines = [
        "# Samplers side by side",
        "",
        "Made by `python -m studies.samplers`; do not edit.",
        "",
        (__doc__ or "").split("\n\n")[3].strip(),
        "",
        f"{len(grouped)} problems, {len(table)} samplers, {seeds} seeds of the chains; the problem "
        f"itself is the same for all. The settings stand in "
        f"[{study.name}](../studies/{study.name}).",
        "",
        *verdict(table, summaries),
        "",
        "![signed errors of every run, and seconds for an error of 1 %](figures/samplers.png)",
        "",
        *markdown(table),
        "",
        "*Certainly biased*: at 99 %, of the mean over the seeds. *Cost over the best's*: seconds "
        "for a root-mean-square error of 1 % over the least on that problem, where no bias is "
        "certain and every run has λ̂.",
        "",
        "## Every problem",
        "",
        LEGEND,
        "",
        "Minibatch samplers' FDE on the problems whose loss is the same for every example "
        "(quadratic, normal crossings) count a batch as its share of n, although it costs as much "
        "as all of it.",
        "",
    ]
    for family, own in grouped.items():
        lines += [f"**{heading(own)}**", "", *markdown(rows(summaries[family])), ""]
    first, *without = counts(runs, unread)
    lines += [first + ("" if not without else ":"), "", *(f"- {line}" for line in without), ""]
    lines += [f"{machine_line()}. Code {', '.join(sorted(versions))}.", ""]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page, unless stopped; 1 where a run failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--study", type=Path, default=ROOT / "studies" / "samplers.yaml")
    parser.add_argument("--page", action="store_true", help="run nothing")
    chosen = parser.parse_args(argv)
    lines = [] if chosen.page else commands(chosen.study, force=False)
    code = run_all(lines, WORKERS) if lines else 0
    if code > 1:  # a signal: the page stays as it was, and the runs that are there are reused
        return code
    runs, unread = of_study(chosen.study)
    PAGE.write_text(page(chosen.study, runs, unread), encoding="utf-8")
    print(f"{len(runs)} runs in {PAGE}")
    return code


if __name__ == "__main__":
    sys.exit(main())
