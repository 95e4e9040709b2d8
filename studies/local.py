"""The local learning coefficient is local, at large γ or small n; writes `docs/local.md`.

    python -m studies.local

λ(w*) depends on the ranks of w*'s layers and their partial products; Aoyagi's λ belongs to the most
singular parameter with the same product. *Table*: ten points of small deep linear networks where
the two differ by at least 1, n = 1e7, β = 1/log n, γ = 100, layers in general position with
non-zero singular values in [2, 2.6] and partial products whose non-zero ones are at least 1.5, read
by HMC (8 chains) and by Gibbs sampling (20 chains). *Figure*: λ̂ of one of them (singular values in
[1, 1.3]) against n. A more singular point at distance r costs γr²/2 in the exponent and gains
Δλ log n: with n the posterior crosses from the local to the global coefficient, the later the
larger γ is. Filled: chains from w* and chains from zero agree within 4 standard errors.
"""

import math
import sys
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from llc.data import Teacher, make_inputs
from llc.diagnostics import excess, mean_and_error
from llc.figures import COLOURS
from llc.models import dln
from llc.params import Params, repeat, stack
from llc.posterior import LocalPosterior
from llc.samplers.gibbs import gibbs
from llc.samplers.hmc import hmc, quarter_period
from llc.sampling import Build, Schedule, sample
from llc.streams import Stream, generator
from studies.networks import machine_line, nbeta

PAGE = Path(__file__).parents[1] / "docs" / "local.md"
POINTS = (  # widths, and the rank of each layer
    ((3, 3, 3), (3, 0)),
    ((4, 5, 4), (0, 4)),
    ((4, 3, 5, 3), (1, 3, 3)),
    ((4, 4, 4, 4), (4, 4, 0)),
    ((4, 4, 4, 4), (3, 0, 4)),
    ((4, 4, 4, 4), (4, 1, 4)),
    ((5, 4, 5, 4), (4, 4, 0)),
    ((5, 5, 5, 5), (1, 5, 5)),
    ((3, 4, 3, 4, 3), (3, 3, 3, 0)),
    ((4, 5, 4, 5, 4), (0, 4, 4, 4)),
)
NUM_DATA, GAMMA, CROSSING = 10**7, 100.0, 3  # the point of the figure
DRAWN = 20_000  # inputs behind the second moment: its own error changes λ̂ by nothing
GAMMAS, SIZES = (10.0, 30.0, 60.0), tuple(10**k for k in range(2, 13))


def point(widths: tuple[int, ...], ranks: tuple[int, ...], smallest: float) -> Teacher:
    """The first seed whose partial products keep their non-zero singular values large."""
    for seed in count():
        source = generator(Stream(seed), "model")
        params = {}
        for name, rank, (columns, rows) in zip(
            dln.shapes(widths), ranks, pairwise(widths), strict=True
        ):
            values = torch.zeros(rows, columns, dtype=torch.float64)
            drawn = torch.rand(rank, generator=source, dtype=torch.float64)
            values[range(rank), range(rank)] = smallest * (1 + 0.3 * drawn)
            params[name] = orthogonal(rows, source) @ values @ orthogonal(columns, source)
        found, least = partial_ranks(list(params.values()))
        if least >= 0.75 * smallest:
            return Teacher(widths, params, found)
    raise AssertionError("unreachable")


def orthogonal(size: int, source: torch.Generator) -> torch.Tensor:
    """An orthogonal matrix in general position."""
    return torch.linalg.qr(torch.randn(size, size, generator=source, dtype=torch.float64))[0]


def partial_ranks(layers: list[torch.Tensor]) -> tuple[np.ndarray, float]:
    """Ranks of W_j ⋯ W_{i+1}, and their smallest singular value that is not zero."""
    depth, least = len(layers), math.inf
    ranks = np.zeros((depth + 1, depth + 1), dtype=np.int64)
    for i in range(depth):
        ranks[i, i] = layers[i].shape[1]
        product = torch.eye(layers[i].shape[1], dtype=torch.float64)
        for j in range(i, depth):
            product = layers[j] @ product
            values = torch.linalg.svdvals(product)
            kept = values[values > 1e-9]
            ranks[i, j + 1] = len(kept)
            least = min([least, *kept.tolist()])
    ranks[depth, depth] = layers[-1].shape[0]
    return ranks, least


def read(
    teacher: Teacher,
    build: Build,
    chains: int,
    steps: int,
    nb: float,
    gamma: float,
    start: Params | None = None,
) -> tuple[float, float]:
    """λ̂ of the second half of the chains and its standard error."""
    source = generator(Stream(0), "data")
    inputs = make_inputs("uniform", DRAWN, teacher.widths[0], source, torch.float64)
    loss = dln.LinearLoss(inputs, dln.product(teacher.params), teacher.widths)
    posterior = LocalPosterior.around(loss, stack([teacher.params]), nb, gamma, chains)
    streams = [Stream(0, chain) for chain in range(chains)]
    trace = sample(posterior, build, Schedule(steps, DRAWN), streams, start=start)
    return mean_and_error(excess(trace, nb)[:, steps // 2 :])


def table() -> tuple[list[str], int]:
    """A row a point, and how many are off by more than 4 SE + 2 %."""
    lines = [
        "| widths | ranks of the layers | λ(w*) | Aoyagi's λ | HMC | Gibbs |",
        "|---|---|---|---|---|---|",
    ]
    wrong = 0
    for widths, ranks in POINTS:
        teacher = point(widths, ranks, 2.0)
        local, most = teacher.local_coefficient(), float(teacher.coefficient().value)
        assert local - most >= 1
        trajectory = quarter_period(GAMMA)
        cells = []
        for build, chains, steps in (
            (lambda p, t=trajectory: hmc(p, trajectory=t, warm_up=300), 8, 3000),
            (gibbs, 20, 3000),
        ):
            mean, error = read(teacher, build, chains, steps, nbeta(NUM_DATA), GAMMA)
            wrong += abs(mean - local) > 4 * error + 0.02 * local
            cells.append(f"{mean:.2f} ± {error:.2f}")
        joined = ("-".join(map(str, sizes)) for sizes in (widths, ranks))
        lines.append(f"| {' | '.join(joined)} | {local:g} | {most:g} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines, wrong


def crossing() -> None:
    """λ̂ against n at three γ, from w* and from the most singular point."""
    teacher = point(*POINTS[CROSSING], 1.0)
    zero = {n: torch.zeros(1, *w.shape, dtype=w.dtype) for n, w in teacher.params.items()}
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    ax = figure.subplots()
    for colour, gamma in zip(COLOURS, GAMMAS, strict=False):
        here, there = (
            [read(teacher, gibbs, 20, 6000, nbeta(n), gamma, start) for n in SIZES]
            for start in (None, repeat(zero, 20))
        )
        means = np.array([mean for mean, _ in here])
        gaps = np.array([abs(a - b) for (a, _), (b, _) in zip(here, there, strict=True)])
        errors = [math.hypot(a, b) for (_, a), (_, b) in zip(here, there, strict=True)]
        agree = gaps < 4 * np.array(errors)
        ax.plot(SIZES, means, color=colour, lw=1, label=f"γ = {gamma:g}")
        ax.plot(np.array(SIZES)[agree], means[agree], "o", ms=5, color=colour)
        ax.plot(np.array(SIZES)[~agree], means[~agree], "o", ms=5, color=colour, mfc="white")
    for value, name in (
        (teacher.local_coefficient(), "λ(w*)"),
        (float(teacher.coefficient().value), "Aoyagi's λ"),
    ):
        ax.axhline(value, color="black", ls="--", lw=1)
        ax.annotate(f"{name} = {value:g}", (SIZES[-1], value), ha="right", va="bottom", fontsize=8)
    ax.set_xscale("log")
    ax.set_xlabel("n")
    ax.set_ylabel("λ̂, β = 1/log n")
    ax.legend(fontsize=8)
    figure.savefig(PAGE.parent / "figures" / "local.png", dpi=150)


def main() -> int:
    """Write the page; 1 if a reading misses the local coefficient."""
    lines, wrong = table()
    crossing()
    page = [
        "# The local coefficient is local",
        "",
        "Made by `python -m studies.local`; do not edit.",
        "",
        (__doc__ or "").split("\n\n", 2)[2],
        *lines,
        "",
        f"{wrong} of {2 * len(POINTS)} readings are off λ(w*) by more than 4 SE + 2 %.",
        "",
        "![λ̂ against n](figures/local.png)",
        "",
        machine_line() + ".",
        "",
    ]
    PAGE.write_text("\n".join(page), encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
