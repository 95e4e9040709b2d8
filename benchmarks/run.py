"""Runs every implementation on every workload in turn and writes the table of results.

    python -m benchmarks.run [--peer-python .venv-bench/bin/python] [--rounds 3] [--seconds 6]

Each measurement is a fresh process. Within a round the implementations follow one another, and
ratios are taken within rounds, so that a machine that drifts drifts for all of them. Ours run with
the interpreter that runs this script; the peers have an environment of their own, made by

    python3 -m venv .venv-bench
    .venv-bench/bin/pip install torch==2.13.0
    .venv-bench/bin/pip install --ignore-requires-python -r benchmarks/requirements.txt

Writes `results.md` and `results.json` beside this file. Exits with 1 if a measurement failed, and
with 2 if the run could not begin.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.workloads import WORKLOADS, flops_per_chain_step

HERE = Path(__file__).parent
BASELINE = "BlackJAX scan"


@dataclass(frozen=True)
class Implementation:
    """One row of the table: what to run, on which workloads."""

    label: str
    module: str
    arguments: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ("W1", "W2", "W3")

    @property
    def ours(self) -> bool:
        return self.module.startswith("benchmarks.ours")


IMPLEMENTATIONS = (
    Implementation(BASELINE, "benchmarks.peer_blackjax"),
    Implementation("llc", "benchmarks.ours", ("--mode", "minibatch")),
    Implementation("llc, library", "benchmarks.ours_library", (), ("W1", "W3")),
    Implementation("llc, full data", "benchmarks.ours", ("--mode", "full"), ("W1",)),
    Implementation("BlackJAX scan, tuned", "benchmarks.peer_blackjax", ("--tuned",)),
    Implementation(
        "BlackJAX scan, tuned, 2 devices", "benchmarks.peer_blackjax", ("--tuned", "--devices", "2")
    ),
    Implementation("canonical-interp", "benchmarks.peer_canonical"),
    Implementation("devinterp", "benchmarks.peer_devinterp", (), ("W1", "W3")),
)


def last_json(python: str, module: str, arguments: Iterable[str]) -> dict:
    """Runs a module in a fresh process and returns its last line as JSON.

    Returns `{"failed": why}` where the process fails or prints something else. Adds `other_work`,
    the share of the cores that other processes used meanwhile.
    """
    others = machine.OtherWork()
    process = subprocess.run(
        [python, "-m", module, *arguments],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        errors = process.stderr.strip().splitlines() or ["no message"]
        return {"failed": f"exit code {process.returncode}: {errors[-1]}"}
    try:
        result = json.loads(process.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return {"failed": f"printed no line of JSON: {process.stdout[-200:]!r}"}
    return result | {"other_work": others.share()}


def summarise(rounds: list[dict], baseline: list[dict]) -> dict:
    """Returns the median rate over rounds, its spread, and the ratios within rounds."""
    failures = [r["failed"] for r in rounds if "failed" in r]
    if failures:
        return {"failed": failures[0]}
    rates = [r["chain_steps_per_second"] for r in rounds]
    summary = {
        "chain_steps_per_second": statistics.median(rates),
        "spread": [min(r["spread"][0] for r in rounds), max(r["spread"][1] for r in rounds)],
        "compile_seconds": statistics.median(r["compile_seconds"] for r in rounds),
        "lambdahat": statistics.median(r["lambdahat"] for r in rounds),
        "peak_memory_mb": max(r.get("peak_memory_mb", 0.0) for r in rounds),
        "versions": rounds[0]["versions"],
        "threads": rounds[0]["threads"],
        "other_work": max(r["other_work"] for r in rounds),
    }
    for extra in ("flops_per_chain_step", "noise_share"):
        if extra in rounds[0]:
            summary[extra] = statistics.median(r[extra] for r in rounds)
    if not any("failed" in b for b in baseline):
        ratios = [
            r["chain_steps_per_second"] / b["chain_steps_per_second"]
            for r, b in zip(rounds, baseline, strict=True)
        ]
        summary["ratio"] = statistics.median(ratios)
        summary["ratio_spread"] = [min(ratios), max(ratios)]
    return summary


def rate(value: float) -> str:
    """Returns a rate with three significant digits, or as an integer."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def gemm_peak(limits: dict) -> float | None:
    """Returns the highest GFLOP/s measured at any shape and number of threads."""
    if "failed" in limits:
        return None
    return max(rate for shapes in limits["gemm"].values() for rate in shapes.values())


def workload_table(name: str, results: list[dict], peak: float | None) -> list[str]:
    """Returns the lines of one workload's table."""
    w = WORKLOADS[name]
    kind = "ReLU network" if w.bias else "deep linear network"
    gemm_bound = name == "W2" and peak is not None
    lines = [
        f"## {name}: {kind} {'-'.join(map(str, w.widths))}",
        "",
        f"{w.num_parameters:,} parameters, n = {w.num_data:,}, batch {w.batch_size}, "
        f"epsilon {w.epsilon:g}, gamma {w.gamma:g}, beta 1/log n.",
        "",
        "| chains | implementation | chain-steps/s | min–max | ratio | min–max | λ̂ | compile, s |"
        + (" GFLOP/s (of peak) |" if gemm_bound else ""),
        "|---|---|---|---|---|---|---|---|" + ("---|" if gemm_bound else ""),
    ]
    for r in (r for r in results if r["workload"] == name):
        head = f"| {r['chains']} | {r['implementation']} | "
        if "failed" in r:
            lines.append(head + f"failed: {r['failed']} |" + " |" * (5 + gemm_bound))
            continue
        low, high = (rate(v) for v in r["spread"])
        ratio, between = "–", "–"
        if "ratio" in r:
            ratio = f"{r['ratio']:.2f}"
            between = "–".join(f"{v:.2f}" for v in r["ratio_spread"])
        line = head + (
            f"{rate(r['chain_steps_per_second'])} | {low}–{high} | {ratio} | {between} | "
            f"{r['lambdahat']:.1f} | {r['compile_seconds']:.1f} |"
        )
        if gemm_bound:
            flops = r.get("flops_per_chain_step", 0 if r["ours"] else flops_per_chain_step(w))
            gflops = 1e-9 * flops * r["chain_steps_per_second"]
            line += f" {gflops:.0f} ({gflops / peak:.0%})"
            line += f", noise {r['noise_share']:.0%} of the time |" if "noise_share" in r else " |"
        lines.append(line)
    return [*lines, ""]


def limits_tables(limits: dict) -> list[str]:
    """Returns the lines of the tables of limits."""
    if "failed" in limits:
        return ["## Limits of the machine", "", f"failed: {limits['failed']}", ""]
    threads = list(limits["gemm"])
    rule = "|---|" + "---|" * len(threads)
    across = " | ".join(f"{t} thread{'s' * (t != '1')}" for t in threads)

    def row(name: str, values: Iterable[float]) -> str:
        return f"| {name} | " + " | ".join(f"{v:,.3g}" for v in values) + " |"

    lines = ["## Limits of the machine", "", f"| float32 GEMM, GFLOP/s | {across} |", rule]
    for shape in limits["gemm"][threads[0]]:
        lines.append(row(shape, (limits["gemm"][t][shape] for t in threads)))
    lines += ["", f"| memory on 64 MB, GB/s | {across} |", rule]
    for name in limits["memory"][threads[0]]:
        lines.append(row(name, (limits["memory"][t][name] for t in threads)))
    lines += ["", f"| normal numbers, million/s (buffer length) | {across} |", rule]
    for name, sizes in limits["normals"][threads[0]].items():
        for size in sizes:
            values = (limits["normals"][t][name][size] for t in threads)
            lines.append(row(f"{name} ({int(size):,})", values))
    return [*lines, ""]


def report(record: dict) -> str:
    """Returns the markdown page of a whole run."""
    m, results = record["machine"], record["results"]
    others = max(r.get("other_work", 0.0) for r in (record["limits"], *results))
    versions: dict[str, str] = {}
    for r in results:
        versions |= r.get("versions", {})
    lines = [
        "# Benchmark results",
        "",
        "Made by `make bench` (`python -m benchmarks.run`); do not edit. Chain-steps per second:",
        f"medians over {record['rounds']} rounds, each a fresh process; min–max over all repeats",
        f"of all rounds; ratio to *{BASELINE}*, taken within each round. λ̂ is n·β times the mean",
        "minibatch loss over a run, a check that all sample the same posterior: not an estimate to",
        "use, since the runs differ in length. *canonical-interp* shares one minibatch among its",
        "chains; all others draw one for each. *llc, library* is `llc.estimate_llc` on the network",
        "as a `torch.nn.Module`, its closer look at every 20th step included; *devinterp* is the",
        "loop inside its `llc`, without its records on disk.",
        "",
        f"{m['processor']}, {m['cores']} cores ({m['vector']}), {m['memory_gb']} GB, "
        f"{m['system']}; {m['threads']} threads. "
        + ", ".join(f"{k} {v}" for k, v in sorted(versions.items()))
        + f". Other processes used at most {others:.0%} of the cores during a measurement.",
        "",
    ]
    peak = gemm_peak(record["limits"])
    for name in sorted({r["workload"] for r in results}):
        lines += workload_table(name, results, peak)
    return "\n".join([*lines, *limits_tables(record["limits"])])


def arguments() -> argparse.Namespace:
    """Returns the command line's options, checked."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--peer-python", default=".venv-bench/bin/python", help="the peers' interpreter")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=6.0, help="timed seconds of a measurement")
    p.add_argument("--threads", type=int, default=2, help="cores that the processes may use")
    p.add_argument("--workloads", nargs="+", choices=sorted(WORKLOADS), default=sorted(WORKLOADS))
    p.add_argument("--only", nargs="+", metavar="LABEL", help="these implementations only")
    p.add_argument("--peers-only", action="store_true")
    p.add_argument("--output", type=Path, default=HERE, help="folder for results.md, results.json")
    args = p.parse_args()

    labels = {i.label for i in IMPLEMENTATIONS}
    unknown = set(args.only or ()) - labels
    if unknown:
        p.error(f"--only: no {sorted(unknown)}; there are {sorted(labels)}")
    args.implementations = [
        i
        for i in IMPLEMENTATIONS
        if i.label in (args.only or labels) and not (args.peers_only and i.ours)
    ]
    ours_missing = importlib.util.find_spec("benchmarks.ours") is None
    if ours_missing and any(i.ours for i in args.implementations):
        p.error("benchmarks/ours.py is missing; --peers-only runs without it")
    # Not resolved: an environment's interpreter is a link that must be called by its own name.
    args.peer_python = os.path.abspath(args.peer_python)
    if not Path(args.peer_python).exists() and not all(i.ours for i in args.implementations):
        p.error(f"no interpreter at --peer-python {args.peer_python}: see `pydoc benchmarks.run`")
    return args


def main() -> int:
    """Runs everything and returns the exit code."""
    args = arguments()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(args.threads)

    record = {"machine": machine.describe(), "rounds": args.rounds, "seconds": args.seconds}
    print("limits of the machine ...", flush=True)
    record["limits"] = last_json(sys.executable, "benchmarks.limits", ())
    results = record["results"] = []
    for name in args.workloads:
        for chains in WORKLOADS[name].chains:
            chosen = [i for i in args.implementations if name in i.workloads]
            measured: dict[str, list[dict]] = {i.label: [] for i in chosen}
            common = ("--workload", name, "--chains", str(chains), "--seconds", str(args.seconds))
            for turn in range(args.rounds):
                for i in chosen:
                    python = sys.executable if i.ours else args.peer_python
                    result = last_json(python, i.module, (*common, *i.arguments))
                    measured[i.label].append(result)
                    value = result.get("chain_steps_per_second")
                    said = f"FAILED, {result['failed']}" if value is None else rate(value)
                    others = f"(other work {result.get('other_work', 0.0):.0%})"
                    case = f"{name} {chains:3d} chains, round {turn + 1}, {i.label}"
                    print(f"{case}: {said} {others}", flush=True)
            baseline = measured.get(BASELINE, [{"failed": "not run"}])
            for i in chosen:
                about = {"workload": name, "chains": chains, "implementation": i.label,
                         "ours": i.ours, "rounds": measured[i.label]}  # fmt: skip
                results.append(about | summarise(measured[i.label], baseline))

    args.output.mkdir(parents=True, exist_ok=True)
    page = report(record)
    (args.output / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    (args.output / "results.md").write_text(page)
    print(page)
    failed = [r for r in (record["limits"], *results) if "failed" in r]
    for r in failed:
        print(f"failed: {r.get('implementation', 'limits')}: {r['failed']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
