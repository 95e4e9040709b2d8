"""What training and sampling a ResNet18 cost beside a bare PyTorch step; writes `resnet.md`.

    python -m benchmarks.resnet [--width 16] [--batch 128] [--rounds 15]

*Bare*: forward, cross-entropy, backward and `torch.optim.SGD.step` of the plain module in training
mode on one batch held ready. *Training*: a step of `train_classifier`, which also draws and gathers
its batch. *SGLD*: a step of one chain of the sampling loop: batch, gradient in evaluation mode
(where large convolutions take in their BatchNorm), noise, localisation, trace, and its share of
the preparations for so few steps. All three in turn, round after round, in one process; ratios to
the bare step of the same round. The peak memory of sampling at the paper's size (width 64, batch
2048, four chains) comes from a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import torch
from torch.nn.functional import cross_entropy

from benchmarks import machine
from benchmarks.beside import in_turn, table
from llc.config import TrainingConfig
from llc.data import load_images
from llc.models.modules import ModuleLoss, weights_of
from llc.models.resnet import resnet18
from llc.params import count, stack
from llc.posterior import LocalPosterior
from llc.samplers.sgld import sgld
from llc.sampling import Schedule, sample
from llc.streams import Stream, generator
from llc.training import train_classifier

PAGE = Path(__file__).with_name("resnet.md")
STEPS = 8  # in a round
PAPER = {"width": 64, "batch": 2048, "chains": 4}


def network(width: int) -> torch.nn.Module:
    """A fresh ResNet18."""
    return resnet18(width, generator(Stream(0), "model"))


def pictures(least: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Digits, repeated until there are at least that many."""
    images = load_images("digits", "data", download=False)
    times = -(-least // len(images.train_inputs))
    return images.train_inputs.repeat(times, 1, 1, 1), images.train_labels.repeat(times)


def bare(module: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Seconds of a plain training step."""
    optimiser = torch.optim.SGD(module.parameters(), lr=1e-3)
    module.train()
    start = perf_counter()
    for _ in range(STEPS):
        optimiser.zero_grad()
        cross_entropy(module(inputs), labels).backward()
        optimiser.step()
    return (perf_counter() - start) / STEPS


def training(
    module: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, batch: int
) -> float:
    """Seconds of our training step."""
    config = TrainingConfig(
        learning_rate=1e-3, momentum=None, batch_size=batch, num_steps=STEPS + 1
    )
    steps = train_classifier(module, inputs, labels, config, Stream(0), STEPS)
    next(steps)
    start = perf_counter()
    next(steps)
    return (perf_counter() - start) / STEPS


def posterior(
    module: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, chains: int
) -> LocalPosterior:
    """Around the network as it stands."""
    loss = ModuleLoss(module, inputs, labels)
    return LocalPosterior.around(loss, stack([weights_of(module)]), 1e3, 1.0, chains)


def sampling(target: LocalPosterior, batch: int) -> float:
    """Seconds of a chain-step of SGLD, all chains side by side."""
    schedule = Schedule(STEPS, batch)
    streams = [Stream(0, chain) for chain in range(target.chains)]
    return sample(target, lambda p: sgld(p, 1e-7), schedule, streams).seconds / STEPS


def peak(width: int, batch: int, chains: int) -> None:
    """Print the peak memory of a few steps, and what stood before, in MB."""
    target = posterior(network(width), *pictures(2 * batch), chains)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    streams = [Stream(0, chain) for chain in range(chains)]
    sample(target, lambda p: sgld(p, 1e-7), Schedule(2, batch), streams)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    stack_mb = 4 * chains * count(target.loss.shapes) / 2**20
    print(json.dumps({"before": before, "peak": after, "stack": stack_mb}))


def main() -> None:
    """Measure, print and write the page."""
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--width", type=int, default=16)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--peak", action="store_true", help="only print the memory at these sizes")
    args = p.parse_args()
    if args.peak:
        peak(args.width, args.batch, PAPER["chains"])
        return
    inputs, labels = pictures(args.batch)
    one, two, three = (network(args.width) for _ in range(3))
    target = posterior(three, inputs, labels, 1)
    cases = {
        "bare": lambda: bare(one, inputs[: args.batch], labels[: args.batch]),
        "training": lambda: training(two, inputs, labels, args.batch),
        "SGLD, one chain": lambda: sampling(target, args.batch),
    }
    seconds = in_turn(cases, args.rounds)
    command = [sys.executable, "-m", "benchmarks.resnet", "--peak"]
    command += ["--width", str(PAPER["width"]), "--batch", str(PAPER["batch"])]
    memory = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    about = machine.describe()
    lines = [
        "# ResNet18: training and sampling beside a bare PyTorch step",
        "",
        "Made by `python -m benchmarks.resnet`; do not edit.",
        "",
        *(__doc__ or "").split("\n\n")[2].strip().splitlines(),
        "",
        f"Width {args.width}, batch {args.batch}, {count(target.loss.shapes):,} parameters; "
        f"medians of {args.rounds} rounds of {STEPS} steps, and the middle 80 % of the ratios.",
        "",
        "| step | ms | images/s | ratio | spread |",
        "|---|---|---|---|---|",
        *table(seconds, args.batch, 1),
        "",
        f"Width {PAPER['width']}, batch {PAPER['batch']}, {PAPER['chains']} chains: peak memory "
        f"{memory['peak']:,.0f} MB, of which {memory['before']:,.0f} MB before the first step "
        f"(interpreter, data, L(w*) over all data); the stack of weights is "
        f"{memory['stack']:,.0f} MB.",
        "",
        f"{about['processor']}, {about['cores']} cores ({about['vector']}), {about['threads']} "
        f"threads, torch {about['torch']}.",
        "",
    ]
    print("\n".join(lines))
    PAGE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
