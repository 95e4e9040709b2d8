"""λ̂ and susceptibilities of a small GPT; writes the end of `docs/language_models.md`.

    python -m studies.language [--seed 0]

A GPT of {:,} parameters (width 16, two blocks of two heads, 32 characters of context) is trained to
{:.2f} nats a character (of {:.2f} for 60 equally likely ones; n = {:,} windows). λ̂ at nβ = n/log n,
γ = 1000, of all its parameters and of each attention head alone; χ of a head with φ = L, the mean
loss of {} fixed windows, on the posterior restricted to that head.
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from llc import LLCEstimate, estimate_llc
from llc.config import TrainingConfig
from llc.data.text import Text, proverbs
from llc.figures import COLOURS
from llc.influence import Statistic, correlation, susceptibility
from llc.models.gpt import GPT, gpt
from llc.streams import Stream, generator
from llc.training import train_classifier
from studies.networks import machine_line

CONTEXT, WIDTH, DEPTH, HEADS = 32, 16, 2, 2
TRAINING = TrainingConfig("adam", 5e-3, None, batch_size=64, num_steps=2000)
GAMMA, BATCH, CHAINS, DRAWS = 1000.0, 32, 4, 400
THIN = {"whole": 24, "head": 12}
EVERY = 20  # of the windows, one in so many is observed
VERSE = "A soft answer turneth away wrath"
KINDS = ("first of a word", "inside a word", "after a word")
PAGE = Path(__file__).parents[1] / "docs" / "language_models.md"
PICTURE = PAGE.parent / "figures" / "language_models.png"


HEADING = "## What came of it\n"
READING = """
Columns χ are (nβ)²χ ± SE, the mean over the characters of a kind, errors jackknifed over four
chains.

![What heads answer to, how losses go together, χ by kind](figures/language_models.png)

*Top*: χ of each head for the characters of Proverbs 15:1, over its largest; dots: more than 2 SE
from zero (four chains: one in seven would be by chance). *Bottom left*: correlation of the
losses of its characters as all parameters move. *Bottom right*: the table's χ, ± 2 SE.
"""


class Component(NamedTuple):
    """A part of the network, and what its chains say."""

    name: str
    estimate: LLCEstimate
    by_kind: Statistic  # (kinds,) χ, the mean over the characters of a kind
    of_verse: Statistic  # (characters,) χ


def trained(text: Text, windows: Tensor, seed: int) -> tuple[GPT, float]:
    """The network and its mean loss over the last 50 steps."""
    model = gpt(
        text.vocabulary, CONTEXT, generator(Stream(seed), "model"),
        width=WIDTH, depth=DEPTH, heads=HEADS,
    )  # fmt: skip
    inputs, labels = windows[:, :-1], windows[:, 1:]
    *_, last = train_classifier(model, inputs, labels, TRAINING, Stream(seed), TRAINING.num_steps)
    return model, float(last.losses[-50:].mean())


def kinds_of(text: Text, windows: Tensor) -> np.ndarray:
    """(n, T − 1) the kind of each predicted character, −1 for others."""
    letter = np.array([one.isalpha() for one in text.characters])[windows.numpy()]
    before, here = letter[:, :-1], letter[:, 1:]
    return np.select([here & ~before, here & before, ~here & before], [0, 1, 2], -1)


def component(name: str, model: GPT, text: Text, windows: Tensor, seed: int) -> Component:
    """Sample a part of the network: `whole`, or a head such as `0.3`."""
    whole = name == "whole"
    observed = windows[::EVERY]
    estimate = estimate_llc(
        model,
        {"input_ids": windows},
        gamma=GAMMA,
        batch_size=BATCH,
        num_chains=CHAINS,
        num_draws=DRAWS,
        thin=THIN["whole" if whole else "head"],
        params=None if whole else model.head_of(*map(int, name.split("."))),
        observables={
            "text": {"input_ids": observed},
            "verse": {"input_ids": text.encode(VERSE)[None]},
        },
        seed=seed,
    )
    burn_in, losses = estimate.num_burn_in, estimate.observables
    loss = losses["text"].mean((2, 3), dtype=np.float64)
    kinds = kinds_of(text, observed)
    means = np.stack([losses["text"][:, :, kinds == k].mean(2) for k in range(len(KINDS))], 2)
    print(name, estimate, flush=True)
    return Component(
        name,
        estimate,
        susceptibility(means, loss, loss, burn_in),
        susceptibility(losses["verse"][:, :, 0], loss, loss, burn_in),
    )


def picture(whole: Component, heads: list[Component]) -> None:
    """χ of each head for the characters of a verse, by kind, and how their losses go together."""
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    top, bottom = figure.subfigures(2, height_ratios=[1, 1.5])
    characters = [one.replace(" ", "␣") for one in VERSE[1:]]
    ax = top.subplots()
    chi, error = (np.stack([head.of_verse[part] for head in heads]) for part in range(2))
    draw(ax, chi / np.abs(chi).max(1, keepdims=True), "χ / largest |χ| of the head")
    clear = np.argwhere(np.abs(chi) > 2 * error)
    ax.plot(clear[:, 1], clear[:, 0], ".", ms=3, color="black")
    ax.set_yticks(range(len(heads)), [f"head {head.name}" for head in heads], fontsize=8)
    ax.set_xticks(range(len(characters)), characters, fontsize=8)
    ax.set_title("what each head answers to, by predicted character", fontsize=9)
    left, right = bottom.subplots(1, 2, width_ratios=[1, 1.1])
    losses = whole.estimate.observables["verse"][:, :, 0]
    together = correlation(losses, losses, whole.estimate.num_burn_in).value
    draw(left, together, "correlation")
    left.set_xticks(range(len(characters)), characters, fontsize=6)
    left.set_yticks(range(len(characters)), characters, fontsize=6)
    left.set_title("losses of two characters, all parameters moving", fontsize=9)
    nbeta = whole.estimate.nbeta
    for index, kind in enumerate(KINDS):
        value, error = (
            nbeta**2 * np.array([one.by_kind[part][index] for one in heads]) for part in range(2)
        )
        at = np.arange(len(heads)) + 0.18 * (index - 1)
        right.errorbar(at, value, 2 * error, fmt="o", ms=4, lw=1, capsize=2,
                       color=COLOURS[index], label=kind)  # fmt: skip
    right.axhline(0, color="black", lw=0.6)
    right.set_xticks(range(len(heads)), [head.name for head in heads], fontsize=8)
    right.set_xlabel("head")
    right.set_ylabel("(nβ)² χ ± 2 SE, mean over the text")
    right.legend(fontsize=8)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110)


def draw(ax, values: np.ndarray, label: str) -> None:
    """A heat map of values in [−1, 1], white at zero."""
    image = ax.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.9)


def table(parts: list[Component]) -> list[str]:
    """A row a component."""
    lines = [
        f"| part | parameters | λ̂ | status | {' | '.join(f'χ, {kind}' for kind in KINDS)} |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in parts:
        found, scale = one.estimate, one.estimate.nbeta**2
        cells = [
            f"{scale * value:+.2f} ± {scale * error:.2f}"
            for value, error in zip(*one.by_kind, strict=True)
        ]
        name = one.name if one.name == "whole" else f"head {one.name}"
        lines.append(
            f"| {name} | {found.num_free:,} | {found.value_and_error} | {found.status} | "
            f"{' | '.join(cells)} |"
        )
    return lines


def results(lines: list[str], model: GPT, loss: float, count: int, seed: int) -> str:
    """What follows on the page after `HEADING`."""
    size = sum(leaf.numel() for leaf in model.parameters())
    setting = (__doc__ or "").split("\n\n", 2)[2].strip()
    about = setting.format(
        size, loss, math.log(model.embed.num_embeddings), count, -(-count // EVERY)
    )
    made = f"Made by `python -m studies.language --seed {seed}`; do not edit from here on."
    return "\n\n".join([made, about, "\n".join(lines), READING.strip(), f"{machine_line()}."])


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    text = proverbs()
    windows = text.windows(CONTEXT)["input_ids"]
    model, loss = trained(text, windows, seed)
    print(f"trained to {loss:.3f} nats", flush=True)
    names = ["whole", *(f"{block}.{head}" for block in range(DEPTH) for head in range(HEADS))]
    parts = [component(name, model, text, windows, seed) for name in names]
    picture(parts[0], parts[1:])
    by_hand = PAGE.read_text(encoding="utf-8").partition(HEADING)[0]
    fresh = results(table(parts), model, loss, len(windows), seed)
    PAGE.write_text(f"{by_hand}{HEADING}\n{fresh}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
