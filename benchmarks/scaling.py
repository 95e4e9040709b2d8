"""Does a step depend on n? Ours on W1 with n from 1e4 to 1e6; writes `scaling.md` beside this file.

python -m benchmarks.scaling [--rounds 3]
"""

import argparse
import statistics
import sys
from pathlib import Path

from benchmarks import machine
from benchmarks.run import last_json, rate
from benchmarks.workloads import WORKLOADS

SIZES = (10_000, 100_000, 1_000_000)
PAGE = Path(__file__).parent / "scaling.md"


def main() -> int:
    """Measures, prints and writes the table; 1 if a measurement failed."""
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--rounds", type=int, default=3)
    rounds = range(p.parse_args().rounds)
    measured: dict[tuple[str, int], list[dict]] = {}
    for _ in rounds:
        for mode in ("minibatch", "full"):
            for n in SIZES:
                options = ("--num-data", str(n), "--mode", mode, "--seconds", "4")
                result = last_json(sys.executable, "benchmarks.ours", options)
                if "failed" in result:
                    print(f"failed: n = {n}: {result['failed']}", file=sys.stderr)
                    return 1
                measured.setdefault((mode, n), []).append(result)
    w, about = WORKLOADS["W1"], machine.describe()
    lines = [
        "# Does a step depend on n?",
        "",
        "Made by `python -m benchmarks.scaling`; do not edit. W1, 8 chains, other n with ε·nβ as",
        f"it was; medians of {len(rounds)} rounds and min–max over all repeats. Memory is the peak",
        "of the process, data included (inputs and targets, float32).",
        "",
        "| batch | n | chain-steps/s | min–max | λ̂ | peak memory, MB | of which data, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for (mode, n), results in measured.items():
        rates = statistics.median(r["chain_steps_per_second"] for r in results)
        low, high = min(r["spread"][0] for r in results), max(r["spread"][1] for r in results)
        batch = w.batch_size if mode == "minibatch" else "all data"
        lines.append(
            f"| {batch} | {n:,} | {rate(rates)} | {rate(low)}–{rate(high)} | "
            f"{statistics.median(r['lambdahat'] for r in results):.1f} | "
            f"{max(r['peak_memory_mb'] for r in results):.0f} | "
            f"{4 * n * (w.widths[0] + w.widths[-1]) / 2**20:.0f} |"
        )
    lines += ["", f"{about['processor']}, {about['cores']} cores, torch {about['torch']}.", ""]
    PAGE.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
