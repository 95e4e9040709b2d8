"""What sampling a GPT costs beside its bare forward and backward pass; writes `gpt.md`.

    python -m benchmarks.gpt [--batch 16] [--length 128] [--rounds 9]

*Bare*: loss and `loss.backward()` of the plain module on one batch held ready. *SGLD*: a step of
one chain, or of two, as the library runs them: batch, gradient, noise, localisation, trace; *with
looks* also the acceptance at every 20th step, which is one gradient more. All in turn, round after
round, in one process; ratios, per chain, to the bare step of the same round.
"""

import argparse
from pathlib import Path
from time import perf_counter

from benchmarks import machine
from benchmarks.beside import in_turn, table
from llc.companions import CHECK_PERIOD
from llc.data.text import proverbs
from llc.library.data import Examples
from llc.library.losses import Objective
from llc.library.network import copied
from llc.library.stacked import LibraryLoss
from llc.library.tokens import next_token_loss
from llc.models.gpt import GPT
from llc.params import count
from llc.posterior import LocalPosterior
from llc.samplers.sgld import sgld
from llc.sampling import Schedule, sample
from llc.streams import Stream

PAGE = Path(__file__).with_name("gpt.md")
STEPS = 5  # in a round


def bare(model: GPT, loss: LibraryLoss, batch: int) -> float:
    """Seconds of a plain forward and backward pass."""
    rows = next(loss.data.parts(batch))
    start = perf_counter()
    for _ in range(STEPS):
        model.zero_grad(set_to_none=True)
        loss.objective(model(rows.inputs), rows.targets, batch).mean().backward()
    return (perf_counter() - start) / STEPS


def sampling(target: LocalPosterior, batch: int, steps: int, period: int | None) -> float:
    """Seconds of a chain-step of SGLD."""
    streams = [Stream(0, chain) for chain in range(target.chains)]
    trace = sample(target, lambda p: sgld(p, 1e-9, period), Schedule(steps, batch), streams)
    return trace.seconds / steps / target.chains


def main() -> None:
    """Measure, print and write the page."""
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--length", type=int, default=128)
    p.add_argument("--rounds", type=int, default=9)
    args = p.parse_args()
    text = proverbs()
    model = GPT(text.vocabulary, args.length, width=384, depth=6, heads=6)
    tokens = text.windows(args.length)["input_ids"]
    objective = Objective(next_token_loss([tokens]), mean=False)
    loss = LibraryLoss(
        copied(model, None), Examples(tokens, tokens), objective, args.batch, "plain"
    )
    one = LocalPosterior.around(loss, loss.centre, 1e3, 1.0)
    two = one.repeat(2)
    cases = {  # of a round: as many steps as the looks need
        "bare forward and backward": lambda: bare(model, loss, args.batch),
        "SGLD, one chain": lambda: sampling(one, args.batch, STEPS, None),
        "SGLD, two chains": lambda: sampling(two, args.batch, STEPS, None),
        "SGLD, one chain, with looks": lambda: sampling(
            one, args.batch, CHECK_PERIOD, CHECK_PERIOD
        ),
    }
    seconds = in_turn(cases, args.rounds)
    about = machine.describe()
    lines = [
        "# A GPT: sampling beside the bare forward and backward pass",
        "",
        "Made by `python -m benchmarks.gpt`; do not edit.",
        "",
        *(__doc__ or "").split("\n\n")[2].strip().splitlines(),
        "",
        f"{count(loss.shapes):,} parameters, batch {args.batch} of {args.length} tokens; medians "
        f"of {args.rounds} rounds, and the range of the ratios.",
        "",
        "| step | ms a chain | tokens/s | ratio | range |",
        "|---|---|---|---|---|",
        *table(seconds, args.batch * args.length, 0),
        "",
        f"{about['processor']}, {about['cores']} cores ({about['vector']}), {about['threads']} "
        f"threads, torch {about['torch']}.",
        "",
    ]
    print("\n".join(lines))
    PAGE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
