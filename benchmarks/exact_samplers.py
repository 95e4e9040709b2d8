"""ESS of our HMC, NUTS and MCLMC beside BlackJAX's, and writes the table.

    python -m benchmarks.exact_samplers [--peer-python .venv-bench/bin/python] [--rounds 2]
        [--seconds 4] [--minutes 8] [--problems dln ...] [--samplers nuts ...]
        [--chains 4 256]

ESS is that of nβ(L − L*), the number λ̂ is the mean of, by the same estimator for both. Each
measurement is a fresh process on the same cores; within a round ours and the peer's follow one
another, and ratios are taken within rounds (see `benchmarks.run`, which also says how to make the
peers' environment). Ours and BlackJAX adapt to the same targets: `exact_blackjax` names them.

Writes `exact_samplers.json` after every measurement, and from it `exact_samplers.md`, beside this
file. Where that record, made in the same way, has some of what is asked for (a run was killed, or
its `--minutes` were over), the rest is added; where it has all, all is measured anew. What is not
asked for stays. Exits with 1 if a measurement failed, with 3 if some are left for another call.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import exact_problems, machine
from benchmarks.run import last_json
from llc.diagnostics import ess

HERE, NAME = Path(__file__).parent, "exact_samplers"
OURS, PEER = "llc", "BlackJAX"
SHOWN = ("ess_per_second", "ess_per_gradient", "microseconds_per_gradient", "warm_up_seconds")
MODULES = {OURS: "benchmarks.exact_ours", PEER: "benchmarks.exact_blackjax"}


class Case(NamedTuple):
    """What is measured, round after round."""

    problem: str
    sampler: str
    chains: int

    def key(self, turn: int, who: str) -> str:
        """Returns the name of a measurement in the record."""
        return f"{self.problem}, {self.sampler}, {self.chains} chains, round {turn}, {who}"


def measure(who: str, python: str, case: Case, seed: int, folder: Path, seconds: float) -> dict:
    """Returns one measurement, with what the draws say."""
    draws = folder / "draws.npy"
    options = {
        "--problem": case.problem,
        "--file": folder / f"{case.problem}.npz",
        "--sampler": case.sampler,
        "--chains": case.chains,
        "--seconds": seconds,
        "--seed": seed,
        "--draws-to": draws,
    }
    words = [str(word) for pair in options.items() for word in pair]
    result = last_json(python, MODULES[who], words)
    if "failed" in result:
        return result
    values = np.load(draws)
    effective = float(ess(values))
    return result | {
        "lambdahat": float(values.mean()),
        "standard_error": float(values.std() / math.sqrt(effective)),
        "ess": effective,
        "ess_per_second": effective / result["seconds"],
        "ess_per_gradient": effective / result["gradients"],
        "microseconds_per_gradient": 1e6 * result["seconds"] / result["gradients"],
    }


def row(case: Case, rounds: dict[str, dict[int, dict]]) -> list[str]:
    """Returns the table's lines of one case, from its measurements by round."""
    lines = []
    for who, results in rounds.items():
        head = f"| {case.problem} | {case.sampler} | {case.chains} | {who} | "
        failed = [r["failed"] for r in results.values() if "failed" in r]
        if failed or not results:
            lines.append(head + (f"failed: {failed[0]}" if failed else "not measured") + " |" * 6)
            continue
        middle = {name: statistics.median(r[name] for r in results.values()) for name in SHOWN}
        ratio, peers = "–", rounds[PEER]
        ratios = [
            own["ess_per_second"] / peers[turn]["ess_per_second"]
            for turn, own in results.items()
            if who == OURS and "ess_per_second" in peers.get(turn, {})
        ]
        if ratios:
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        first = results[min(results)]
        lines.append(
            head + f"{middle['ess_per_second']:.3g} | {ratio} | {middle['ess_per_gradient']:.2g} | "
            f"{middle['microseconds_per_gradient']:.3g} | {middle['warm_up_seconds']:.1f} | "
            f"{first['lambdahat']:.2f} ± {first['standard_error']:.2f} |"
        )
    return lines


def report(record: dict) -> str:
    """Returns the markdown page."""
    m, versions, asked = record["machine"], record["versions"], record["asked"]
    others = max((r.get("other_work", 0.0) for r in record["measured"].values()), default=0.0)
    lines = [
        "# Exact samplers",
        "",
        "Made by `python -m benchmarks.exact_samplers`; do not edit. Effective draws of nβ(L − L*)",
        f"after the warm-up in float64, {asked['seconds']:g} s of them a measurement, medians over",
        f"{asked['rounds']} rounds, or the one there is; ratio of ESS/s within rounds, with its",
        "range. Gradients are counted over all chains: with HMC those of the longest trajectory,",
        "with NUTS each chain's own, without what is computed while it waits for the others; µs is",
        "the time over their number. The warm-up includes BlackJAX's compilation. NUTS doubles at",
        f"most {exact_problems.MAX_DEPTH} times.",
        "",
        *(f"- {name}: {what}" for name, what in record["problems"].items()),
        "",
        f"γ = {exact_problems.GAMMA:g}, β = 1/log n, n = 1000. {m['processor']}, {m['cores']} "
        f"cores, {m['threads']} used. "
        + ", ".join(f"{k} {v}" for k, v in sorted(versions.items()))
        + f". Other processes used at most {others:.0%} of the cores during a measurement.",
        "",
        "| problem | sampler | chains | | ESS/s | ratio | ESS/gradient | µs/gradient | warm-up, s "
        "| λ̂ |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in map(Case._make, record["cases"]):
        rounds = {
            who: {
                turn: record["measured"][case.key(turn, who)]
                for turn in range(asked["rounds"])
                if case.key(turn, who) in record["measured"]
            }
            for who in MODULES
        }
        lines += row(case, rounds)
    return "\n".join([*lines, ""])


def cases(args: argparse.Namespace) -> list[Case]:
    """Returns what is asked for."""
    return [Case(*names) for names in product(args.problems, args.samplers, args.chains)]


def left(record: dict, args: argparse.Namespace) -> Iterator[tuple[Case, int]]:
    """What has not been measured by both, round after round."""
    for turn in range(args.rounds):
        for case in cases(args):
            known = (record["measured"].get(case.key(turn, who), {}) for who in MODULES)
            if not all("lambdahat" in result for result in known):
                yield case, turn


def begun(path: Path, args: argparse.Namespace) -> dict:
    """Returns the record to go on with: the one at `path` where it was made in the same way."""
    asked = {name: getattr(args, name) for name in ("rounds", "seconds", "threads")}
    fresh = {"asked": asked, "machine": machine.describe(), "versions": {}, "problems": {}}
    fresh |= {"cases": [], "measured": {}}
    old = json.loads(path.read_text()) if path.exists() else fresh
    same = (
        old.get("asked") == asked and old["machine"]["processor"] == fresh["machine"]["processor"]
    )
    record = old if same else fresh
    if next(left(record, args), None) is None:
        for case, turn, who in product(cases(args), range(args.rounds), MODULES):
            del record["measured"][case.key(turn, who)]
    known = {*map(Case._make, record["cases"]), *cases(args)}
    record["cases"] = sorted(known, key=place)
    return record


def place(case: Case) -> tuple[int, int, int]:
    """Where a case stands in the table."""
    problems, samplers = list(exact_problems.PROBLEMS), exact_problems.SAMPLERS
    return problems.index(case.problem), samplers.index(case.sampler), case.chains


def keep(record: dict, folder: Path) -> None:
    """Leaves the record and its page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / f"{NAME}.md").write_text(report(record))


def arguments() -> argparse.Namespace:
    """Returns the command line's options, checked."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--peer-python", default=".venv-bench/bin/python", help="the peer's interpreter")
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--seconds", type=float, default=4.0, help="of draws a measurement")
    p.add_argument("--minutes", type=float, default=math.inf, help="after which nothing is begun")
    p.add_argument("--chains", type=int, nargs="+", default=[4])
    p.add_argument("--threads", type=int, default=2, help="cores that the processes may use")
    names, samplers = tuple(exact_problems.PROBLEMS), exact_problems.SAMPLERS
    p.add_argument("--problems", nargs="+", choices=names, default=names)
    p.add_argument("--samplers", nargs="+", choices=samplers, default=samplers)
    p.add_argument("--output", type=Path, default=HERE, help="folder for the page and the JSON")
    args = p.parse_args()
    args.peer_python = os.path.abspath(args.peer_python)  # not resolved: called by its own name
    if not Path(args.peer_python).exists():
        p.error(f"no interpreter at --peer-python {args.peer_python}: see `pydoc benchmarks.run`")
    return args


def main() -> int:
    """Runs everything and returns the exit code."""
    args = arguments()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(args.threads)
    pythons = {OURS: sys.executable, PEER: args.peer_python}
    record, end = begun(args.output / f"{NAME}.json", args), time.monotonic() + 60 * args.minutes
    results, late = [], False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case, turn in list(left(record, args)):
            late = time.monotonic() > end
            if late:
                break
            problem = folder / f"{case.problem}.npz"
            if not problem.exists():
                record["problems"][case.problem] = exact_problems.write(case.problem, problem)
            for who, python in pythons.items():
                result = measure(who, python, case, turn, folder, args.seconds)
                results.append(result)
                record["versions"] |= result.pop("versions", {})
                record["measured"][case.key(turn, who)] = result
                keep(record, args.output)
                said = result.get("failed") or f"{result['ess_per_second']:.3g} ESS/s"
                others = f"(other work {result.get('other_work', 0.0):.0%})"
                print(f"{case.key(turn, who)}: {said} {others}", flush=True)
    print(report(record))
    if any("failed" in r for r in results):
        return 1
    return 3 if late else 0


if __name__ == "__main__":
    sys.exit(main())
