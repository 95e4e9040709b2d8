"""ESS of our HMC, NUTS and MCLMC beside BlackJAX's, and writes the table.

    python -m benchmarks.exact_samplers [--peer-python .venv-bench/bin/python] [--rounds 3]
        [--seconds 20] [--problems dln ...] [--samplers nuts ...]

ESS is that of nβ(L − L*), the number λ̂ is the mean of, by the same estimator for both. Each
measurement is a fresh process on the same cores; within a round ours and the peer's follow one
another, and ratios are taken within rounds (see `benchmarks.run`, which also says how to make the
peers' environment). Ours and BlackJAX adapt to the same targets: `exact_blackjax` names them.

Writes `exact_samplers.md` and `exact_samplers.json` beside this file. Exits with 1 if a measurement
failed.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import exact_problems, machine
from benchmarks.run import last_json
from llc.diagnostics import ess

HERE = Path(__file__).parent
OURS, PEER = "llc", "BlackJAX"
MODULES = {OURS: "benchmarks.exact_ours", PEER: "benchmarks.exact_blackjax"}


def measure(who: str, python: str, problem: str, sampler: str, seed: int, folder: Path, args):
    """Returns one measurement, with what the draws say."""
    draws = folder / "draws.npy"
    options = {
        "--problem": problem,
        "--file": folder / f"{problem}.npz",
        "--sampler": sampler,
        "--chains": args.chains,
        "--seconds": args.seconds,
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


def row(problem: str, sampler: str, rounds: dict[str, list[dict]]) -> list[str]:
    """Returns the table's lines of one problem and sampler."""
    lines = []
    for who, results in rounds.items():
        failed = [r["failed"] for r in results if "failed" in r]
        head = f"| {problem} | {sampler} | {who} | "
        if failed:
            lines.append(head + f"failed: {failed[0]} |" + " |" * 6)
            continue
        middle = {
            name: statistics.median(r[name] for r in results)
            for name in ("ess_per_second", "ess_per_gradient", "microseconds_per_gradient")
        }
        ratio = "–"
        if who == OURS and not any("failed" in r for r in rounds[PEER]):
            pairs = zip(results, rounds[PEER], strict=True)
            ratios = [own["ess_per_second"] / peer["ess_per_second"] for own, peer in pairs]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        warm_up = statistics.median(r["warm_up_seconds"] for r in results)
        lines.append(
            head + f"{middle['ess_per_second']:.3g} | {ratio} | {middle['ess_per_gradient']:.2g} | "
            f"{middle['microseconds_per_gradient']:.3g} | {warm_up:.1f} | "
            f"{results[0]['lambdahat']:.2f} ± {results[0]['standard_error']:.2f} |"
        )
    return lines


def report(record: dict) -> str:
    """Returns the markdown page."""
    m, versions = record["machine"], record["versions"]
    rounds = [r for case in record["cases"] for own in case["rounds"].values() for r in own]
    others = max(r.get("other_work", 0.0) for r in rounds)
    lines = [
        "# Exact samplers",
        "",
        "Made by `python -m benchmarks.exact_samplers`; do not edit. Effective draws of nβ(L − L*)",
        f"after the warm-up, {record['chains']} chains in float64, medians over {record['rounds']}",
        "rounds; ratio of ESS/s within rounds, with its range. Gradients are counted over all",
        "chains: with HMC those of the longest trajectory for each, with NUTS each chain's own,",
        "without what is computed while it waits for the others. The warm-up includes BlackJAX's",
        "compilation.",
        "",
        *(f"- {name}: {what}" for name, what in record["problems"].items()),
        "",
        f"γ = {exact_problems.GAMMA:g}, β = 1/log n, n = 1000. {m['processor']}, {m['cores']} "
        f"cores, {m['threads']} used. "
        + ", ".join(f"{k} {v}" for k, v in sorted(versions.items()))
        + f". Other processes used at most {others:.0%} of the cores during a measurement.",
        "",
        "| problem | sampler | | ESS/s | ratio | ESS/gradient | µs/gradient | warm-up, s | λ̂ |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in record["cases"]:
        lines += row(case["problem"], case["sampler"], case["rounds"])
    return "\n".join([*lines, ""])


def arguments() -> argparse.Namespace:
    """Returns the command line's options, checked."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--peer-python", default=".venv-bench/bin/python", help="the peer's interpreter")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=20.0, help="of draws a measurement")
    p.add_argument("--chains", type=int, default=4)
    p.add_argument("--threads", type=int, default=2, help="cores that the processes may use")
    names, samplers = sorted(exact_problems.PROBLEMS), exact_problems.SAMPLERS
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
    record = {"machine": machine.describe(), "rounds": args.rounds, "chains": args.chains}
    cases = record["cases"] = []
    versions, described = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for problem in args.problems:
            described[problem] = exact_problems.write(problem, folder / f"{problem}.npz")
            for sampler in args.samplers:
                rounds: dict[str, list[dict]] = {OURS: [], PEER: []}
                for turn in range(args.rounds):
                    for who, python in pythons.items():
                        result = measure(who, python, problem, sampler, turn, folder, args)
                        rounds[who].append(result)
                        versions |= result.get("versions", {})
                        said = result.get("failed") or f"{result['ess_per_second']:.3g} ESS/s"
                        others = f"(other work {result.get('other_work', 0.0):.0%})"
                        print(f"{problem}, {sampler}, {who}: {said} {others}", flush=True)
                cases.append({"problem": problem, "sampler": sampler, "rounds": rounds})
    record |= {"versions": versions, "problems": described}
    page = report(record)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "exact_samplers.json").write_text(json.dumps(record, indent=1) + "\n")
    (args.output / "exact_samplers.md").write_text(page)
    print(page)
    results = [r for case in cases for own in case["rounds"].values() for r in own]
    return 1 if any("failed" in r for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
