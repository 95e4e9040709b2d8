"""λ̂ along saddle-to-saddle training; writes `docs/saddle.md`.

    python -m studies.saddle

`expt_dln_saddle_dynamics.py` as it stands (widths 5-10-10-10-10-5, 401 checkpoints, at each one
chain of 100 SGLD steps, ε = 1e-6, γ = 1, all draws counted), with five seeds.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import expt_dln_saddle_dynamics as script
from benchmarks.machine import OtherWork
from llc.config import SaddleConfig, SGLDConfig
from llc.diagnostics import Estimate
from llc.figures import COLOURS, loss_and_llc
from llc.models import dln
from llc.params import stack
from llc.streams import Stream
from llc.theory import deep_linear, deep_linear_local, generic_partial_ranks
from llc.training import Checkpoint, train
from studies.networks import machine_line

SEEDS = (42, 43, 44, 45, 46)
STEEP = 0.3  # a fall of log-loss per 1,000 steps
DONE = 1e-3  # share of the first loss below which the teacher counts as learned
APART = 250  # steps of plateau between two falls, at least
SIGNIFICANT = 3.0  # standard errors
LATE = 10  # checkpoints that count as the end
CHOSEN = (0, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 10_000, 12_000, 16_000, 20_000)
LONGER = ((1e-7, 20_000), (3e-7, 600_000))
ONE_BY_ONE = 40  # checkpoints that are also timed alone
ROUNDS = 9  # of the timing
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "saddle.md"

RULE = f"""The loss *falls* where ln L drops by more than {STEEP:g} per 1,000 steps between
neighbouring checkpoints, as long as L is above {DONE:g} of its first value; falls less than {APART}
steps apart are one. What lies between falls is a plateau. λ̂ *climbs* at a fall if its mean over
the plateau after exceeds the mean over the one before by more than {SIGNIFICANT:g} standard errors
(from the scatter between checkpoints, whose chains are independent)."""

WHAT_CLIMBS = """Aoyagi's λ for these widths at ranks 0, 1, …: {}. The local coefficient at
layers of full rank in general position, as those of w_t are: {:g}. The hidden layers are so wide
that λ is the same at every w_t. What climbs is how much of it a short chain meets at n = 10,000: in
a direction that is not learned yet the weights of all layers are small, and the loss is nearly flat
as far as 100 steps reach. The readings above follow ½r(10 − r), half the dimension of the 5 × 5
matrices of rank r, for r learned directions; part of the difference is the finite step, as
ε = 1e-7 shows below."""

LONG = """Four chains at each chosen checkpoint of seed {}, full-data gradients, second half of the
draws; in brackets R-hat and the step-size bias that the estimate reports. The longest chains, freed
of that bias, read {:.1f} to {:.1f} along the whole training, and {:.1f} at its start, where the
script's chain reads {:.2f}: the staircase tells how far short chains reach."""


class Run(NamedTuple):
    """One run of the script: columns over checkpoints, and its seconds from start to exit."""

    seed: int
    steps: np.ndarray
    losses: np.ndarray
    llcs: np.ndarray
    ranks: np.ndarray
    seconds: float


class Plateau(NamedTuple):
    """The checkpoints first … last (excluded) between two falls of the loss."""

    run: Run
    first: int
    last: int

    @property
    def llcs(self) -> np.ndarray:
        return self.run.llcs[self.first : self.last]

    @property
    def rank(self) -> int:
        return int(np.median(self.run.ranks[self.first : self.last]))


def carry_out(seed: int, directory: str) -> Run:
    """The script as a user starts it."""
    start = perf_counter()
    command = [sys.executable, "expt_dln_saddle_dynamics.py", "-F", directory, "-i", str(seed)]
    subprocess.run([*command, "with", f"seed={seed}"], cwd=ROOT, check=True, capture_output=True)
    seconds = perf_counter() - start
    records = json.loads(Path(directory, str(seed), "info.json").read_text())["records"]
    names = ("t", "train_loss", "lambdahat", "true_rank")
    columns = (np.array([record[name] for record in records]) for name in names)
    return Run(seed, *columns, seconds)


def plateaus(run: Run) -> list[Plateau]:
    """What lies between the falls of the loss, by the rule on the page."""
    slope = -np.diff(np.log(run.losses)) / np.diff(run.steps) * 1000
    steep = (slope > STEEP) & (run.losses[:-1] > DONE * run.losses[0])
    edges = np.flatnonzero(np.diff(np.r_[0, steep, 0]))
    falls: list[list[int]] = []
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if falls and run.steps[begin] - run.steps[falls[-1][1]] < APART:
            falls[-1][1] = end
        else:
            falls.append([begin, end])
    starts = [0, *(end for _, end in falls)]
    ends = [*(begin + 1 for begin, _ in falls), len(run.steps)]
    return [Plateau(run, a, b) for a, b in zip(starts, ends, strict=True)]


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Checkpoints have random streams of their own: the scatter between them is the error."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def climbs(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether the mean rises by more than SIGNIFICANT standard errors."""
    (low, low_error), (high, high_error) = mean_and_error(before), mean_and_error(after)
    return high - low > SIGNIFICANT * float(np.hypot(low_error, high_error))


def regular(rank: int, size: int) -> float:
    """Half the dimension of the size × size matrices of a rank."""
    return rank * (2 * size - rank) / 2


class Measured(NamedTuple):
    """Seconds of the default run's estimates."""

    groups: float  # in groups, as the script makes them
    one_stack: float
    alone: float  # one checkpoint after another, scaled from ONE_BY_ONE of them


def timed(loss: dln.LinearLoss, points: Sequence[Checkpoint], config: SaddleConfig) -> Measured:
    """Seconds to estimate λ̂ at all checkpoints, three ways with the same kernels, in turns."""

    def seconds(some: Sequence[Checkpoint], size: int) -> float:
        start = perf_counter()
        for first in range(0, len(some), size):
            estimate(loss, some[first : first + size], config)
        return perf_counter() - start

    few = points[:: len(points) // ONE_BY_ONE][:ONE_BY_ONE]
    ways = ((points, config.group_size), (points, len(points)), (few, 1))
    rounds = [[seconds(*way) for way in ways] for _ in range(ROUNDS)]
    groups, one_stack, alone = (median(column) for column in zip(*rounds, strict=True))
    return Measured(groups, one_stack, alone * len(points) / len(few))


def estimate(
    loss: dln.LinearLoss, points: Sequence[Checkpoint], config: SaddleConfig
) -> list[Estimate]:
    """λ̂ at these checkpoints as one stack."""
    steps = [point.step for point in points]
    return script.estimate_at(loss, stack([point.params for point in points]), steps, config)


def longer(
    loss: dln.LinearLoss, points: Sequence[Checkpoint], config: SaddleConfig
) -> list[list[Estimate]]:
    """Four full-data chains at each chosen checkpoint, of every length; the second half counts."""
    chosen = [point for point in points if point.step in CHOSEN]
    results = []
    for epsilon, num_steps in LONGER:
        sgld = SGLDConfig(
            epsilon=epsilon,
            gamma=1.0,
            num_steps=num_steps,
            batch_size=config.num_training_data,
            burn_in_prop=0.5,
            thin=10,
        )
        results.append(estimate(loss, chosen, replace(config, sgld_config=sgld)))
    return results


def draw(run: Run, between: Sequence[Plateau], long: Sequence[Sequence[Estimate]]) -> None:
    """The first seed: loss and λ̂ with the falls in grey; and λ̂ from longer chains."""
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    loss_and_llc(top, top.twinx(), run.steps, run.losses, run.llcs)
    top.set_xlabel("")
    for one, two in pairwise(between):
        for ax in (top, bottom):
            ax.axvspan(run.steps[one.last - 1], run.steps[two.first], color="0.9", zorder=0, lw=0)
    bottom.plot(run.steps, run.llcs, "x", ms=3, mew=0.6, alpha=0.5, color=COLOURS[1])
    for (epsilon, num_steps), estimates, colour, mark in zip(
        LONGER, long, (COLOURS[2], COLOURS[0]), "os", strict=True
    ):
        bottom.errorbar(
            CHOSEN,
            [one.mean for one in estimates],
            yerr=[1.96 * one.standard_error for one in estimates],
            fmt=f"{mark}-",
            ms=4,
            lw=1,
            color=colour,
            label=f"{num_steps:,} steps, ε = {epsilon:g}",
        )
    bottom.axhline(12.5, color="black", ls="--", lw=1, label="λ = 12.5")
    bottom.plot([], [], "x", color=COLOURS[1], label="100 steps, ε = 1e-06")
    bottom.set_xlabel("training step")
    bottom.set_ylabel("λ̂")
    bottom.legend(loc="lower right", fontsize=8)
    figure.savefig(PAGE.parent / "figures" / "saddle.png", dpi=150)


def theory(config: SaddleConfig) -> list[str]:
    """Aoyagi's λ at every rank, and the coefficient at full-rank weights in general position."""
    by_rank = [deep_linear(config.widths, rank).value for rank in range(config.in_out_dim + 1)]
    layers = [min(pair) for pair in pairwise(config.widths)]
    local = deep_linear_local(config.widths, generic_partial_ranks(layers))
    values = ", ".join(f"{float(value):g}" for value in by_rank)
    return ["## What climbs is not λ", "", WHAT_CLIMBS.format(values, float(local)), ""]


def climb_section(runs: Sequence[Run]) -> tuple[list[str], bool]:
    """Counts of change points, the start and the end; and whether all is as expected."""
    all_plateaus = [plateaus(run) for run in runs]
    pairs = [pair for own in all_plateaus for pair in pairwise(own)]
    agreeing = sum(climbs(before.llcs, after.llcs) for before, after in pairs)
    flat = [p.llcs for own in all_plateaus for p in own if len(p.llcs) >= 2 * LATE]
    restless = sum(climbs(v[: len(v) // 2], v[len(v) // 2 :]) for v in flat)
    falling = 1 - np.mean([sum(len(p.llcs) - 1 for p in own) / 400 for own in all_plateaus])
    starts = [run.llcs[0] for run in runs]
    ends = [run.llcs[-LATE:].mean() for run in runs]
    off = [end / 12.5 - 1 for end in ends]
    good = sum(abs(error) <= 0.2 for error in off)
    lines = [
        "## λ̂ climbs where the training loss falls",
        "",
        RULE,
        "",
        f"- λ̂ climbs at **{agreeing} of {len(pairs)}** falls of the loss. The falls take up "
        f"{falling:.0%} of the training.",
        f"- The other way round: on **{restless} of {len(flat)}** plateaus of {2 * LATE} or more "
        "checkpoints λ̂ also climbs, from the first half to the second.",
        f"- λ̂ at t = 0: {', '.join(f'{value:+.3f}' for value in starts)}.",
        f"- λ̂ at the end (mean of the last {LATE} checkpoints) against 12.5: "
        f"{', '.join(f'{error:+.1%}' for error in off)}; **{good} of {len(runs)}** within 20 %.",
        "",
        "| seed | plateau | rank | ½r(10 − r) | mean λ̂ ± SE | difference |",
        "|---|---|---|---|---|---|",
    ]
    for plateau in (p for own in all_plateaus for p in own):
        run, (mean, error) = plateau.run, mean_and_error(plateau.llcs)
        begin, end = run.steps[plateau.first], run.steps[plateau.last - 1]
        known = regular(plateau.rank, 5)
        lines.append(
            f"| {run.seed} | {begin:,} – {end:,} | {plateau.rank} | {known:g} | "
            f"{mean:.2f} ± {error:.2f} | {mean - known:+.2f} |"
        )
    okay = agreeing == len(pairs) and good == len(runs) and max(np.abs(starts)) < 0.1
    return [*lines, ""], okay


def longer_section(run: Run, long: Sequence[Sequence[Estimate]]) -> list[str]:
    """λ̂ from the script's chains beside that from longer ones."""
    freed = [one.mean - one.step_size_bias for one in long[-1]]
    heads = [f"{num_steps:,} steps, ε = {epsilon:g}" for epsilon, num_steps in LONGER]
    lines = [
        "## Longer chains",
        "",
        LONG.format(run.seed, min(freed), max(freed), freed[0], run.llcs[0]),
        "",
        "| t | 100 steps, ε = 1e-06 | " + " | ".join(heads) + " |",
        "|---|---|" + "---|" * len(LONGER),
    ]
    for i, step in enumerate(CHOSEN):
        cells = [
            f"{one[i].mean:.2f} ± {one[i].standard_error:.2f} "
            f"({one[i].rhat:.2f}, {one[i].step_size_bias:+.2f})"
            for one in long
        ]
        here = run.llcs[run.steps == step][0]
        lines.append(f"| {step:,} | {here:.2f} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def main() -> int:
    """Write the page; 1 if a fall lacks its climb, or an end is off by more than 20 %."""
    with tempfile.TemporaryDirectory() as directory:
        runs = [carry_out(seed, directory) for seed in SEEDS]
    climbing, okay = climb_section(runs)
    config = SaddleConfig(seed=SEEDS[0])
    loss, start = script.setting(config)
    stream, every = Stream(config.seed), config.logging_period
    points = list(train(loss, start, config.training_config, stream, every))
    others = OtherWork()
    cost = timed(loss, points, config)
    busy = others.share()
    long = longer(loss, points, config)
    draw(runs[0], plateaus(runs[0]), long)
    page = [
        "# λ̂ along saddle-to-saddle training",
        "",
        "Made by `python -m studies.saddle`; do not edit.",
        "",
        *(__doc__ or "").split("\n\n")[2].splitlines(),
        "",
        "![training loss and λ̂](figures/saddle.png)",
        "",
        f"Seed {SEEDS[0]}; grey: the loss falls. Bottom: the same checkpoints with longer chains.",
        "",
        *climbing,
        *theory(config),
        *longer_section(runs[0], long),
        "## Seconds",
        "",
        f"- λ̂ at {len(points)} checkpoints, diagnostics included (medians of {ROUNDS}, in turns):",
        f"  - one after another ({ONE_BY_ONE} of them, scaled to all): {cost.alone:.2f} s",
        f"  - in the script's groups of {config.group_size}: {cost.groups:.2f} s, "
        f"{cost.alone / cost.groups:.0f} times as fast",
        f"  - as one stack: {cost.one_stack:.2f} s, "
        f"{cost.alone / cost.one_stack:.0f} times as fast",
        "- The whole script, from start to exit: "
        f"{', '.join(f'{run.seconds:.1f}' for run in runs)} s for the five seeds.",
        "",
        f"{machine_line()}; while the estimates were timed, other work took {busy:.0%} of it.",
        "",
    ]
    PAGE.write_text("\n".join(page), encoding="utf-8")
    print("\n".join(page))
    return int(not okay)


if __name__ == "__main__":
    sys.exit(main())
