"""λ̂ against λ at every size of the paper's deep linear networks; writes `docs/exact.md`.

    python -m studies.exact [--page] [SIZE_CLASS ...]

Depths, widths, n, ε and steps are those of the paper's size classes. Each network is read up to
three ways. *SGLD*: the paper's settings (γ = 1, β = 1/log n, batch 500, one chain, the last tenth
of the trace), in the larger classes the smallest networks alone, since it takes hours. *Gibbs*: the
same posterior, read by Gibbs sampling of the layers (2 chains, the second half of each), which is
exact: what is left is the distance of this posterior from its limit; in the two smaller classes.
*Gibbs, colder*: nβ = 1e12, where that distance is gone; the limit is what λ is about. γ is 30
there, and as much more as keeps the typical product of the layers' norms, ∏ 2√(width/γ), below 1e9,
which float64 can carry. Gibbs sampling is cooled from nβ = 100 in the first quarter of its sweeps.
It reads the inputs through their second moment alone, in the classes 1M and 10M that of 20,000
inputs; n enters by nβ. There it keeps 80 draws at most, and `ok` asks for an ESS of 100.
Of a class the smallest networks are read first; the table counts those read, of 20 (10M: of one).
Estimates are kept in `docs/exact.jsonl` as they come, and are not made again.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path
from random import Random
from time import perf_counter

import numpy as np
import torch
from matplotlib.figure import Figure

from gen_commands_expt_dln import SIZE_CLASSES, draw
from llc.commands.lines import draws
from llc.config import SamplerConfig, SGLDConfig
from llc.estimate import estimate_one
from llc.figures import COLOURS
from studies.networks import Network, machine_line, nbeta, teacher_and_loss

ROOT = Path(__file__).parents[1]
STORE, PAGE = ROOT / "docs" / "exact.jsonl", ROOT / "docs" / "exact.md"
METHODS = ("aligned_rank", "random", "zero")
COUNT = 20  # networks a class and method
SWEEPS = {"1k": 400, "10k": 240, "100k": 160, "1M": 80, "10M": 40}
DRAWN = {"1M": 20_000, "10M": 20_000}  # inputs behind the second moment: gigabytes otherwise
COLD_NBETA, COLD_GAMMA, LARGEST_PRODUCT = 1e12, 30.0, 1e9
HOT_NBETA = 100.0  # at which Gibbs sampling starts
READERS = ("SGLD", "Gibbs", "Gibbs, colder")
AS_THE_PAPER = ("1k", "10k")  # classes whose posterior at the paper's nβ and γ Gibbs sampling reads
TICKS = (-100, -30, -10, -5, -2, 0, 2, 5, 10, 30, 100)
SINGLE = {"10M": 9}  # the one of its class that is read: 10.3 M parameters; others have up to 30 M
SGLD_COUNTS = {"1k": 20, "10k": 20, "100k": 5, "1M": 2, "10M": 0}  # of each method, the smallest


def networks(size_class: str, method: str) -> Iterator[Network]:
    """The networks of a class; those of one index have the same widths whatever the method."""
    size = SIZE_CLASSES[size_class]
    configs = draws(lambda random: draw(random, size), COUNT, 0)
    for seed, config in enumerate(configs):
        if SINGLE.get(size_class, seed) != seed:
            continue
        widths = (config["input_dim"], *config["layer_widths"])
        share = Random(seed).uniform(0.2, 0.8)
        rank = max(1, int(share * min(widths))) if method == "aligned_rank" else None
        yield Network(widths, method, rank, seed)


def size_of(network: Network) -> int:
    """Parameters."""
    return sum(a * b for a, b in pairwise(network.widths))


def cold_gamma(widths: Sequence[int]) -> float:
    """COLD_GAMMA, or more where the norms would multiply to above LARGEST_PRODUCT."""
    depth = len(widths) - 1
    return max(COLD_GAMMA, 4 * float(np.mean(widths)) * LARGEST_PRODUCT ** (-2 / depth))


def read(network: Network, size_class: str, reader: str) -> dict:
    """One estimate, as a row."""
    size = SIZE_CLASSES[size_class]
    drawn = size.num_data if reader == "SGLD" else DRAWN.get(size_class, size.num_data)
    teacher, loss = teacher_and_loss(network, drawn)
    colder = reader == "Gibbs, colder"
    chosen_nbeta = COLD_NBETA if colder else nbeta(size.num_data)
    config = SGLDConfig(
        epsilon=size.epsilon,
        gamma=cold_gamma(network.widths) if colder else 1.0,
        num_steps=size.num_steps,
        num_chains=1 if reader == "SGLD" else 2,
        batch_size=500,
    )

    gibbs = SamplerConfig("gibbs", SWEEPS[size_class], heat=chosen_nbeta / HOT_NBETA)
    start = perf_counter()
    result = estimate_one(
        loss,
        teacher.params,
        nbeta=chosen_nbeta,
        sgld_config=config,
        sampler_config=SamplerConfig() if reader == "SGLD" else gibbs,
        seed=network.seed,
        companions=False,  # λ is known here
    )
    return {
        "size_class": size_class,
        "method": network.method,
        "seed": network.seed,
        "reader": reader,
        "network": str(network),
        "num_params": size_of(network),
        "known": float(teacher.local_coefficient()),
        "mean": result.mean if np.isfinite(result.mean) else None,
        "standard_error": result.standard_error if np.isfinite(result.mean) else None,
        "status": result.status,
        "seconds": perf_counter() - start,
        "threads": torch.get_num_threads(),
    }


def key(row: dict) -> tuple:
    """What names an estimate."""
    return tuple(row[name] for name in ("size_class", "method", "seed", "reader"))


def stored() -> list[dict]:
    """Every estimate made so far; of those made twice, the later one."""
    lines = STORE.read_text().splitlines() if STORE.exists() else []
    return list({key(row): row for row in map(json.loads, lines)}.values())


def make(size_classes: Sequence[str]) -> None:
    """The estimates that are missing, those of small networks first; what takes hours is last."""
    done = {key(row) for row in stored()}
    for reader, size_class in product(reversed(READERS), size_classes):
        if reader == "Gibbs" and size_class not in AS_THE_PAPER:
            continue
        chosen = sorted((n for m in METHODS for n in networks(size_class, m)), key=size_of)
        if reader == "SGLD":
            chosen = chosen[: len(METHODS) * SGLD_COUNTS[size_class]]
        for network in chosen:
            if (size_class, network.method, network.seed, reader) in done:
                continue
            row = read(network, size_class, reader)
            with STORE.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


def table(rows: list[dict]) -> list[str]:
    """A line for each class, method and reader: the median and the worst |λ̂/λ − 1|."""
    lines = [
        "| parameters | w* | read by | networks | median | worst | beyond 5 % | not finite | `ok` "
        "| largest SE | seconds each |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups = defaultdict(list)
    for row in rows:
        groups[row["size_class"], row["method"], row["reader"]].append(row)
    for key in ((c, m, r) for c in SWEEPS for m in METHODS for r in READERS):
        group = groups.get(key)
        if not group:
            continue
        found = [row for row in group if row["mean"] is not None]
        off = np.abs([row["mean"] / row["known"] - 1 for row in found])
        errors = [row["standard_error"] / row["known"] for row in found]
        seconds = np.median([row["seconds"] for row in group])
        okay = sum(row["status"] == "ok" for row in group)
        lines.append(
            f"| {key[0]} | {key[1]} | {key[2]} | {len(group)} | {np.median(off):.2%} | "
            f"{off.max():.1%} | {(off > 0.05).sum()} | {len(group) - len(found)} | {okay} | "
            f"{max(errors):.1%} | {seconds:.1f} |"
        )
    return lines


def picture(rows: list[dict]) -> None:
    """Signed errors, a panel for each w*, a colour for each reader."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    panels = figure.subplots(1, len(METHODS), sharey=True)
    for ax, method in zip(panels, METHODS, strict=True):
        for shift, reader in enumerate(READERS):
            own = [r for r in rows if r["method"] == method and r["reader"] == reader and r["mean"]]
            place = [list(SWEEPS).index(r["size_class"]) + 0.25 * (shift - 1) for r in own]
            jitter = np.random.default_rng(0).uniform(-0.08, 0.08, len(own))
            errors = [100 * (r["mean"] / r["known"] - 1) for r in own]
            ax.plot(place + jitter, errors, "o", ms=3, color=COLOURS[shift], label=reader)
        ax.axhspan(-2, 2, color="0.9", zorder=0)
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xticks(range(len(SWEEPS)), SWEEPS)
        ax.set_title(method, fontsize=10)
        ax.set_xlabel("parameters")
    panels[0].set_ylabel("λ̂/λ − 1, per cent (grey: ±2 %)")
    panels[0].set_yscale("symlog", linthresh=5)
    panels[0].set_ylim(-150, 150)  # at a deep zero where hardly anything moves: −100 %
    panels[0].set_yticks(TICKS, [f"{tick:+d}" if tick else "0" for tick in TICKS])
    panels[0].set_yticks([], minor=True)
    panels[-1].legend(fontsize=8)
    figure.savefig(PAGE.parent / "figures" / "exact.png", dpi=150)


def main() -> int:
    """Make what is missing and write the page; 1 if a colder estimate is off by more than 5 %."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("size_class", nargs="*", help=f"of {', '.join(SWEEPS)}; by default all")
    parser.add_argument("--page", action="store_true", help="read no network")
    chosen = parser.parse_args()
    if unknown := {*chosen.size_class} - {*SWEEPS}:
        parser.error(f"no such class: {', '.join(sorted(unknown))}; there are {', '.join(SWEEPS)}")
    if not chosen.page:
        make(chosen.size_class or list(SWEEPS))
    rows = [row for row in stored() if row["size_class"] in SWEEPS]
    threads = " or ".join(map(str, sorted({row["threads"] for row in rows})))
    about = (__doc__ or "").split("\n\n", 2)[2]
    page = [
        "# λ̂ against λ at every size",
        "",
        "Made by `python -m studies.exact`; do not edit.",
        "",
        about,
        "![signed relative errors](figures/exact.png)",
        "",
        *table(rows),
        "",
        f"{machine_line()}. Seconds are of sampling alone, on {threads} thread(s); other work may "
        "have shared the machine.",
        "",
    ]
    PAGE.write_text("\n".join(page), encoding="utf-8")
    picture(rows)
    cold = [row for row in rows if row["reader"] == READERS[-1]]
    return int(any(not row["mean"] or abs(row["mean"] / row["known"] - 1) > 0.05 for row in cold))


if __name__ == "__main__":
    sys.exit(main())
