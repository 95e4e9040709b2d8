"""The training loop: steps, checkpoints, and where it stands when it is stopped."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from llc.checkpoints import Keeper
from llc.config import TrainingConfig
from llc.params import Params

Label = Callable[[], str]


class Checkpoint(NamedTuple):
    """The network after `step` optimiser steps."""

    step: int
    params: Params  # unstacked, a copy
    losses: Tensor  # minibatch losses of the steps since the last checkpoint, each before its step

    @property
    def finite(self) -> bool:
        """Whether training has not blown up."""
        weights = all(bool(leaf.isfinite().all()) for leaf in self.params.values())
        return weights and bool(self.losses[-1:].isfinite().all())


class Trainer(Protocol):
    """A network, its optimiser and its minibatches."""

    block: int  # steps at once, at most

    def advance(self, steps: int) -> Tensor:
        """Take that many steps and return their minibatch losses."""

    def params(self) -> Params:
        """A copy of the weights."""

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""


def checkpoints(
    trainer: Trainer, num_steps: int, every: int, keeper: Keeper | None, label: Label | None
) -> Iterator[Checkpoint]:
    """Train, and yield the network at the start, every `every` steps and at the last one.

    What an earlier run left with the `keeper` is taken up, beginning with the checkpoint it had
    yielded last if it was stopped there. With a `label`, a progress bar on a terminal: the label,
    asked for anew after every checkpoint, the step, the time left, and the minibatch loss.
    """
    keeper = keeper or Keeper()
    done, losses = 0, torch.empty(0)

    def state() -> dict[str, Any]:
        return {"done": done, "losses": losses, "trainer": trainer.state()}

    if left := keeper.left("training"):
        trainer.restore(left["trainer"])
        device = next(iter(trainer.params().values())).device
        done, losses = left["done"], left["losses"].to(device)
    silent = None if label else True  # None: only where stderr is no terminal
    bar = tqdm(total=num_steps, initial=done, unit="step", desc=label and label(), disable=silent)
    with bar, keeper.holding("training", state):
        while True:
            if done % every == 0 or done == num_steps:
                yield Checkpoint(done, trainer.params(), losses)
                losses = losses[:0]
                if label:
                    bar.set_description(label())
            if done == num_steps:
                return
            count = min(trainer.block, every - done % every, num_steps - done)
            fresh = trainer.advance(count)
            done += count
            losses = torch.cat([losses.to(fresh), fresh])
            if bar.update(count):  # when it is drawn: reading the loss waits for the device
                bar.set_postfix_str(f"loss {float(fresh[-1]):.3g}", refresh=False)
            keeper.tick()


def optimiser(weights: list[Tensor], config: TrainingConfig) -> torch.optim.Optimizer:
    """Plain SGD (with momentum where given) or Adam."""
    if config.optim == "adam":
        return torch.optim.Adam(weights, lr=config.learning_rate)
    return torch.optim.SGD(weights, lr=config.learning_rate, momentum=config.momentum or 0.0)
