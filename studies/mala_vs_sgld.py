"""Full-gradient MALA against minibatch SGLD; writes `docs/mala_vs_sgld.md` and its picture.

    python -m studies.mala_vs_sgld [--page]

A ReLU network 10-20-20-10 with biases, inputs uniform on [−10, 10]¹⁰, at its own answers, so that
L(w*) = 0; γ = 1, β = 1/log n, batches of 32. Both samplers have the same step size at every n, and
it is ε = 0.001/nβ, the same share of the curvature at all n: at ε = 1e-5 throughout SGLD diverges
at n = 100,000, and MALA accepts nothing (`sgld_config.epsilon=1e-5` at the end of a line of the
study shows it). Chains are 500 steps long and their second half counts: they have not reached
equilibrium, as their status says; what is compared is how far each has come.

Runs what is missing of `studies/mala_vs_sgld.yaml`; `--page` only writes the page, from what is
recorded.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from gen_commands_expt_sampler_benchmark import commands
from llc.commands.running import run_all
from llc.figures import mala_beside_sgld, save
from llc.figures.samplers import SIZE, Repeats, difference, repeats
from llc.figures.tables import Array, half_width, lists, numbers
from llc.records import load_runs
from studies.networks import machine_line

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "studies" / "mala_vs_sgld.yaml"
PAGE = ROOT / "docs" / "mala_vs_sgld.md"
WORKERS = 2
EPSILON = "config.sgld_config.epsilon"


def paired(runs: pd.DataFrame, size: float) -> Array:
    """Relative differences SGLD/MALA − 1 of chains with the same random numbers."""
    own = runs[runs[SIZE] == size].sort_values("started")
    sides = [
        own[own["sampler"] == name].groupby("config.seed").tail(1) for name in ("sgld", "mala")
    ]
    llcs = [
        dict(zip(side["config.seed"], lists(side, "llc_per_chain"), strict=True)) for side in sides
    ]
    both = [seed for seed in llcs[0] if len(llcs[0][seed]) == len(llcs[1].get(seed, ()))]
    pairs = [llcs[0][seed] / llcs[1][seed] - 1 for seed in both]
    found = np.concatenate([*pairs, np.empty(0)])
    return np.asarray(found[np.isfinite(found)])


def row(runs: pd.DataFrame, mala: Repeats, sgld: Repeats) -> str:
    """One n: both readings, their difference, what a step costs."""
    own = runs[runs[SIZE] == mala.size]
    gap, half = difference(sgld.llcs, mala.llcs)
    pairs = paired(runs, mala.size)
    rejected = 1 - numbers(own[own["sampler"] == "mala"], "acceptance").mean()
    cells = [
        f"{mala.size:,.0f}",
        f"{numbers(own, EPSILON)[0]:g}",
        *(f"{one.llcs.mean():.1f} ± {float(half_width(one.llcs)):.1f}" for one in (mala, sgld)),
        f"{gap:+.1%} ± {half:.1%}",
        f"{pairs.mean():+.1%} ± {float(half_width(pairs)):.1%}",
        f"{rejected:.1%}",
        *(f"{one.seconds.mean():.3g}" for one in (mala, sgld)),
        f"{mala.seconds.mean() / sgld.seconds.mean():.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def page(runs: pd.DataFrame) -> str:
    """The page; draws its picture."""
    others = {one.size: one for one in repeats(runs, "sgld")}
    both = [(mala, others[mala.size]) for mala in repeats(runs, "mala") if mala.size in others]
    gaps = [difference(sgld.llcs, mala.llcs) for mala, sgld in both]
    agreeing = sum(abs(gap) <= half for gap, half in gaps)
    means = [paired(runs, mala.size).mean() for mala, _ in both]
    bias = np.nanmedian(numbers(runs, "step_size_bias") / numbers(runs, "llc_mean"))
    lost = sum(one.diverged + one.failed for pair in both for one in pair)
    save(mala_beside_sgld(runs), PAGE.parent / "figures" / "mala_vs_sgld", runs)
    (PAGE.parent / "figures" / "mala_vs_sgld.pdf").unlink()
    return "\n".join(
        [
            "# MALA against SGLD",
            "",
            "Made by `python -m studies.mala_vs_sgld`; do not edit.",
            "",
            (__doc__ or "").split("\n\n")[2].strip(),
            "",
            f"**λ̂ agrees within the error of independent chains at {agreeing} of {len(both)} n** "
            f"(95 %, Welch's t; {len(both[0][0].llcs)} chains each; {lost} without λ̂). Chains of "
            "the two have the same random numbers, and their paired differences see more: "
            f"SGLD reads {min(means):+.1%} to {max(means):+.1%}. The bias that it reports of its "
            f"own step is {bias:.1%} (median). MALA stands still where it rejects; how much of the "
            "rest that explains is not measured.",
            "",
            "![λ̂, its difference, and seconds, against n](figures/mala_vs_sgld.png)",
            "",
            "| n | ε | λ̂ by MALA | by SGLD | difference | paired | MALA rejects | seconds by "
            "MALA | by SGLD | ratio |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *(row(runs, mala, sgld) for mala, sgld in both),
            "",
            "± are 95 % intervals (Student's t over chains). Seconds are for 1,000 steps of one "
            "chain without companions, means of two runs with a thread each, in float32; other "
            "work on the machine is in them.",
            "",
            f"{machine_line()}.",
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page, unless stopped; 1 where a run failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--page", action="store_true", help="run nothing")
    parser.add_argument("--source", default=f"outputs/{STUDY.stem}", help="where the records are")
    chosen = parser.parse_args(argv)
    lines = [] if chosen.page else commands(STUDY, force=False)
    code = run_all(lines, WORKERS) if lines else 0
    if code > 1:  # a signal: the page stays as it was, and the runs that are there are reused
        return code
    runs = load_runs(chosen.source)
    PAGE.write_text(page(runs[~runs["superseded"]]), encoding="utf-8")
    print(PAGE)
    return code


if __name__ == "__main__":
    sys.exit(main())
