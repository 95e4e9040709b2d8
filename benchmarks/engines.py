"""A gradient of eight chains by each of the library's engines, compiled and not.

    python -m benchmarks.engines [--seconds 1]

Medians of calls on the same batch, in one process on one thread; *compiling* is the first compiled
call, without what earlier runs left in PyTorch's caches. Writes `engines.md`.
"""

import argparse
import statistics
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from benchmarks import machine
from llc.data.text import proverbs
from llc.library.compiling import Compiling
from llc.library.data import Examples
from llc.library.losses import Objective, cross_entropy
from llc.library.network import copied
from llc.library.stacked import LibraryLoss
from llc.library.tokens import next_token_loss
from llc.models.gpt import GPT
from llc.params import Layout, repeat

PAGE = Path(__file__).with_name("engines.md")
CHAINS, COUNT = 8, 512


def perceptron(*widths: int) -> nn.Module:
    """Linear layers with ReLU in between."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def classifier(*widths: int) -> tuple[nn.Module, Examples, Any]:
    """A perceptron, data and loss."""
    examples = Examples(torch.randn(COUNT, widths[0]), torch.randint(widths[-1], (COUNT,)))
    return perceptron(*widths), examples, cross_entropy


def transformer() -> tuple[nn.Module, Examples, Any]:
    """Two blocks on a text."""
    text = proverbs()
    tokens = text.windows(32)["input_ids"]
    loss = next_token_loss([tokens])
    return GPT(text.vocabulary, 32, width=64, depth=2, heads=4), Examples(tokens, tokens), loss


CASES = {
    "perceptron 10-20-20-10, batch 32": (lambda: classifier(10, 20, 20, 10), 32),
    "perceptron 64-256-256-10, batch 64": (lambda: classifier(64, 256, 256, 10), 64),
    "transformer, 2 blocks of width 64, batch 8 × 32 tokens": (transformer, 8),
}


def milliseconds(loss: LibraryLoss, batch: int, seconds: float) -> float:
    """Median time of a gradient, after two that warm up."""
    layout = Layout(loss.shapes, CHAINS)
    weights = layout.pack(repeat(loss.centre, CHAINS))
    out = layout.stack(torch.zeros_like(weights.flat))
    block = loss.block(weights.leaves, loss.reference(loss.centre), 1)
    block.load(1, torch.arange(batch, dtype=torch.int32).expand(1, CHAINS, -1))
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        start = perf_counter()
        block.add_gradient(0, weights.leaves, out.leaves, 1e-9)
        times.append(perf_counter() - start)
    return 1e3 * statistics.median(times[2:])


def row(name: str, seconds: float) -> str:
    """A line of the table."""
    make, batch = CASES[name]
    torch.manual_seed(0)
    module, examples, function = make()
    objective = Objective(function, mean=False)
    loss = LibraryLoss(copied(module, None), examples, objective, batch, "vmap")
    compiling = Compiling()
    cells = [
        milliseconds(loss.run_by("vmap"), batch, seconds),
        milliseconds(loss.run_by("vmap", compiling), batch, seconds),
        milliseconds(loss.run_by("plain"), batch, seconds),
    ]
    if compiling.trouble:
        raise SystemExit(f"{name}: not compiled: {compiling.trouble}")
    return f"| {name} | {' | '.join(f'{c:.3g}' for c in cells)} | {compiling.seconds:.0f} s |"


def main() -> None:
    """Measure, print and write the page."""
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--seconds", type=float, default=1.0, help="for each number")
    args = p.parse_args()
    torch.compiler.config.force_disable_caches = True
    torch.set_num_threads(1)
    about = machine.describe()
    lines = [
        "# The library's engines",
        "",
        "Made by `python -m benchmarks.engines`; do not edit.",
        "",
        *(__doc__ or "").split("\n\n")[0].splitlines(),
        "",
        *(__doc__ or "").split("\n\n")[2].strip().replace(" Writes `engines.md`.", "").splitlines(),
        "",
        "| ms | `vmap` | `vmap` compiled | `plain` | compiling |",
        "|---|---|---|---|---|",
        *(row(name, args.seconds) for name in CASES),
        "",
        f"{about['processor']} ({about['vector']}), one thread, torch {about['torch']}.",
        "",
    ]
    print("\n".join(lines))
    PAGE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
