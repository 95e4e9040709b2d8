"""How often is the status `ok` although λ̂ is wrong? Writes `docs/false_ok.md`.

    python -m studies.false_ok [--networks 100] [--workers 2]

Seeded random networks, each with its own run; the limits behind the status were chosen on other
seeds.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from llc.config import SGLDConfig
from llc.data import Teacher
from llc.estimate import estimate_llc
from llc.models import dln
from studies.networks import Network, machine_line, misses, nbeta, small_step, teacher_and_loss

NUM_DATA = 100_000
PAGE = Path(__file__).parents[1] / "docs" / "false_ok.md"


class Plan(NamedTuple):
    """A network and its run."""

    network: Network
    teacher: Teacher
    loss: dln.LinearLoss
    config: SGLDConfig


class Study(NamedTuple):
    """A population of runs."""

    title: str
    about: str
    draw: Callable[[int], Plan]
    first_seed: int


PAPER = """Seeds from 2000. 2–6 layers of width 5–50; `aligned_rank` (every other one; rank up to
half the smallest width), `random`, or, up to three layers deep, `zero`. SGLD as in the paper:
minibatches of 500, n = 1e5, γ = 1, β = 1/log n, ε 5e-7 or 2e-7, four chains from w* of 5,000,
20,000 or 60,000 steps, of which the last half counts. Many of these chains are far from
equilibrium: the question is whether the status says so."""

LONG = """Seeds from 4000. 2–4 layers of width 5–25, methods as above. Full-data Langevin dynamics
with the small steps of `make accuracy` and 300,000 of them, of which the last half counts: most of
these chains equilibrate, and the question is whether the rest, hard to tell from them, is told."""


def draw_paper(seed: int) -> Plan:
    """SGLD at the paper's settings."""
    rng = np.random.default_rng(seed)
    network = draw_network(rng, 6, 50, seed)
    config = SGLDConfig(
        epsilon=float(rng.choice([2e-7, 5e-7])),
        gamma=1.0,
        num_steps=int(rng.choice([5_000, 20_000, 60_000])),
        batch_size=500,
        burn_in_prop=0.5,
    )
    return Plan(network, *teacher_and_loss(network, NUM_DATA), config)


def draw_long(seed: int) -> Plan:
    """Long full-data runs of small networks."""
    network = draw_network(np.random.default_rng(seed), 4, 25, seed)
    teacher, loss = teacher_and_loss(network, NUM_DATA)
    config = SGLDConfig(
        epsilon=small_step(network, loss, teacher.params, nbeta(NUM_DATA)),
        gamma=1.0,
        num_steps=300_000,
        batch_size=NUM_DATA,
        burn_in_prop=0.5,
        thin=10,
    )
    return Plan(network, teacher, loss, config)


def draw_network(rng: np.random.Generator, max_layers: int, max_width: int, seed: int) -> Network:
    """A random architecture and truth."""
    layers = int(rng.integers(2, max_layers + 1))
    widths = tuple(int(width) for width in rng.integers(5, max_width + 1, layers + 1))
    methods = ["aligned_rank", "aligned_rank", "random", "zero" if layers <= 3 else "random"]
    method = str(rng.choice(methods))
    rank = int(rng.integers(1, max(2, min(widths) // 2 + 1))) if method == "aligned_rank" else None
    return Network(widths, method, rank, seed)


STUDIES = (
    Study("At the paper's settings", PAPER, draw_paper, 2000),
    Study("Where most chains converge", LONG, draw_long, 4000),
)


def run(draw: Callable[[int], Plan], seed: int) -> dict:
    """One network: what was estimated and what is true."""
    torch.set_num_threads(1)
    network, teacher, loss, config = draw(seed)
    result = estimate_llc(
        loss, teacher.params, nbeta=nbeta(NUM_DATA), sgld_config=config, seed=seed
    )
    known = teacher.local_coefficient()
    return {
        "seed": seed,
        "network": str(network),
        "epsilon": config.epsilon,
        "steps": config.num_steps,
        "known": known,
        "mean": result.mean,
        "error": result.mean / known - 1,
        "se": result.standard_error / known,
        "rhat": result.rhat,
        "ess": result.ess,
        "drift": result.drift / known,
        "cooled": result.cooled_mean / known - 1,
        "bias": result.step_size_bias / known,
        "status": result.status,
        "misses": misses(result, known),
    }


def line(r: dict) -> str:
    """A row of the table."""
    return (
        f"| {r['seed']} | {r['network']} | {r['epsilon']:.0e} | {r['steps']:,} | {r['known']:g} | "
        f"{r['error']:+.1%} | {r['se']:.1%} | {r['cooled']:+.1%} | {r['drift']:+.1%} | "
        f"{r['bias']:+.1%} | {r['rhat']:.2f} | {r['status'].split(':')[0]} |"
    )


HEAD = (
    "| seed | network | ε | steps | λ | error | SE | from above | drift | step bias | R-hat "
    "| status |",
    "|---" * 12 + "|",
)


def carry_out(study: Study, networks: int, workers: int) -> tuple[list[str], int, int]:
    """A study's part of the page, how many were `ok`, and how many of those wrongly."""
    print(f"## {study.title}", *HEAD, sep="\n")
    rows = []
    seeds = range(study.first_seed, study.first_seed + networks)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for result in pool.map(partial(run, study.draw), seeds):
            rows.append(result)
            print(line(result), flush=True)
    kinds = Counter(r["status"].split(":")[0].split(" at ")[0] for r in rows)
    okay = [r for r in rows if r["status"] == "ok"]
    wrong = sum(r["misses"] for r in okay)
    off = sum(r["misses"] for r in rows)
    unsaid = sum(r["misses"] and r["rhat"] < 1.05 and r["ess"] > 100 for r in rows)
    verdict = (
        f"{networks} networks: "
        + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        + f". {off} miss λ by more than 3 % and four standard errors, {wrong} of them called `ok`; "
        f"R-hat < 1.05 and ESS > 100 alone would have passed {unsaid}."
    )
    print(verdict)
    page = [f"## {study.title}", "", study.about, "", f"**{verdict}**", ""]
    return [*page, *HEAD, *map(line, rows), ""], len(okay), wrong


def main() -> int:
    """Print and write the tables; 1 if the share of wrong `ok` is 2 % or more."""
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--networks", type=int, default=100, help="of each study")
    p.add_argument("--workers", type=int, default=2)
    args = p.parse_args()
    parts, okay, wrong = zip(
        *(carry_out(study, args.networks, args.workers) for study in STUDIES), strict=True
    )
    total = f"**{sum(okay)} estimates were called `ok`; {sum(wrong)} of them wrongly.**"
    print(total)
    page = [
        "# Is `ok` to be believed?",
        "",
        "Made by `python -m studies.false_ok`; do not edit.",
        "",
        *(__doc__ or "").split("\n\n")[2].strip().splitlines(),
        "",
        total,
        "",
    ]
    page += [text for part in parts for text in part] + [machine_line() + ".", ""]
    PAGE.write_text("\n".join(page), encoding="utf-8")
    return int(sum(wrong) >= 0.02 * max(1, sum(okay)))


if __name__ == "__main__":
    sys.exit(main())
