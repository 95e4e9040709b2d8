"""Does a larger learning rate end at a lower λ̂? Writes `docs/classifier.md` and its picture.

    python -m studies.classifier [--workers 2]

`expt_llc_curve.py` at its last step only: ResNet18 (first stage of 4 channels) on scikit-learn's
digits, plain SGD, batches of 128, 3,000 steps, five seeds (initialisation, batches and chains) for
each learning rate. λ̂ at β = 1/log n, γ = 100, two chains from w* of 1,500 SGLD steps on batches of
256, ε = 1e-5, of which the last 40 % count. Intervals: 95 %, Student's t over the seeds.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

import expt_llc_curve as script
from llc.checkpoints import Keeper
from llc.config import CurveConfig, parse
from llc.figures import COLOURS, half_width
from llc.reporting.curves import kinds, line
from llc.streams import Stream
from llc.training import train_classifier
from studies.networks import machine_line

RATES = (0.01, 0.05, 0.25)
SEEDS = range(5)
STEPS = 3000
PAGE = Path(__file__).parents[1] / "docs" / "classifier.md"
PICTURE = PAGE.parent / "figures" / "classifier.png"


class End(NamedTuple):
    """The end of one training."""

    rate: float
    seed: int
    record: dict
    train_loss: float  # cross-entropy over all training data, in evaluation mode


def run(rate: float, seed: int) -> End:
    """Train, and measure the last checkpoint."""
    torch.set_num_threads(1)
    config = parse(
        CurveConfig,
        {
            "seed": seed,
            "logging_period": STEPS,
            "model_data_config": {"data_name": "digits", "layer_width_factor": 4},
            "training_config": {"learning_rate": rate, "num_steps": STEPS},
            "sgld_config": {
                "epsilon": 1e-5,
                "gamma": 100.0,
                "num_steps": 1500,
                "num_chains": 2,
                "batch_size": 256,
                "burn_in_prop": 0.6,
            },
        },
    )
    images, labels, model = script.setting(config)
    *_, end = train_classifier(
        model, images.train_inputs, labels, config.training_config, Stream(seed), STEPS
    )
    record = script.measure(end, model, images, labels, config, Keeper())
    return End(rate, seed, record, record["init_loss"])


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval."""
    return float(np.mean(values)), float(half_width(values))


def main() -> None:
    """Run, print, and write the page."""
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--workers", type=int, default=2)
    args = p.parse_args()
    jobs = [(rate, seed) for seed in SEEDS for rate in RATES]
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        ends = []
        for end in pool.map(run, *zip(*jobs, strict=True)):
            ends.append(end)
            print(end.rate, end.seed, line(end.record), flush=True)
    table = [
        "| learning rate | final λ̂ | training loss | test accuracy | per seed | statuses |",
        "|---|---|---|---|---|---|",
    ]
    middle, half = {}, {}
    for rate in RATES:
        own = [end for end in ends if end.rate == rate]
        llcs = [end.record["lambdahat"] for end in own]
        middle[rate], half[rate] = interval(llcs)
        accuracy, spread = interval([end.record["test_accuracy"] for end in own])
        low, high = min(e.train_loss for e in own), max(e.train_loss for e in own)
        status = kinds([end.record for end in own])
        table.append(
            f"| {rate:g} | {middle[rate]:.1f} ± {half[rate]:.1f} | {low:.1e} – {high:.1e} | "
            f"{accuracy:.1%} ± {spread:.1%} | {', '.join(f'{v:.1f}' for v in llcs)} | "
            + ", ".join(f"{n} {kind}" for kind, n in status.items())
            + " |"
        )
    pairs = [
        (ends_of(ends, a, seed) > ends_of(ends, b, seed))
        for a, b in pairwise(RATES)
        for seed in SEEDS
    ]
    verdict = (
        f"**From one learning rate to the next λ̂ falls in {sum(pairs)} of {len(pairs)} pairs of "
        "runs of the same seed.**"
    )
    print(*table, verdict, sep="\n")
    draw(ends, middle, half)
    page = [
        "# Learning rate and the final λ̂ of a classifier",
        "",
        "Made by `python -m studies.classifier`; do not edit.",
        "",
        *(__doc__ or "").split("\n\n")[2].strip().splitlines(),
        "",
        "![final λ̂ against the learning rate](figures/classifier.png)",
        "",
        verdict,
        "",
        *table,
        "",
        machine_line() + ".",
        "",
    ]
    PAGE.write_text("\n".join(page), encoding="utf-8")


def ends_of(ends: list[End], rate: float, seed: int) -> float:
    """λ̂ of one run."""
    return next(e.record["lambdahat"] for e in ends if (e.rate, e.seed) == (rate, seed))


def draw(ends: list[End], middle: dict[float, float], half: dict[float, float]) -> None:
    """Every seed and the intervals."""
    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    ax = figure.subplots()
    for end in ends:
        ax.plot(end.rate, end.record["lambdahat"], "x", color=COLOURS[1], ms=5)
    ax.errorbar(
        list(middle), list(middle.values()), yerr=list(half.values()), fmt="o-", color=COLOURS[0]
    )
    ax.set_xscale("log")
    ax.set_xlabel("learning rate")
    ax.set_ylabel(f"final λ̂ (mean of {len(SEEDS)} seeds, 95 %)")
    figure.savefig(PICTURE, dpi=150)


if __name__ == "__main__":
    main()
