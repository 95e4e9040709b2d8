"""Minibatch training that yields checkpoints, on the same gradients the samplers use."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llc.checkpoints import Keeper
from llc.config import TrainingConfig
from llc.models.base import StackedLoss, block_steps
from llc.params import Layout, Params, stack, unstack
from llc.streams import ShuffledBatches, Stream


class Checkpoint(NamedTuple):
    """The network after `step` optimiser steps."""

    step: int
    params: Params  # unstacked, a copy
    losses: Tensor  # minibatch losses of the steps since the last checkpoint, each before its step


def train(
    loss: StackedLoss,
    start: Params,
    config: TrainingConfig,
    stream: Stream,
    every: int,
    keeper: Keeper | None = None,
) -> Iterator[Checkpoint]:
    """Train one network and yield it at the start, every `every` steps and at the last one.

    Plain SGD (with momentum where given) or Adam, from torch.optim, on L_B alone; minibatches in
    shuffled epochs. A training that blows up yields non-finite losses and parameters: the caller
    decides what that means. With a `keeper` an earlier run's training is taken up, beginning with
    the checkpoint it had yielded last if it was stopped there.
    """
    keeper = keeper or Keeper()
    layout = Layout(loss.shapes, 1)
    weights = layout.pack(stack([start]))
    gradient = layout.stack(torch.zeros_like(weights.flat))
    weights.flat.grad = gradient.flat
    optimiser = _optimiser(weights.flat, config)
    device = weights.flat.device
    indices = ShuffledBatches(
        [stream], loss.num_examples, config.batch_size, device, purpose="training_batches"
    )
    block = block_steps(loss, config.batch_size, chains=1)
    batches = loss.block(weights.leaves, loss.reference(weights.leaves), block)
    losses = weights.flat.new_empty(0)
    done = 0

    def state() -> dict[str, Any]:
        return {
            "done": done,
            "weights": weights.flat,
            "optimiser": optimiser.state_dict(),
            "batches": indices.state(),
            "losses": losses,
        }

    if left := keeper.left("training"):
        done, losses = left["done"], left["losses"].to(device)
        weights.flat.copy_(left["weights"])
        optimiser.load_state_dict(left["optimiser"])
        indices.restore(left["batches"])
    with keeper.holding("training", state):
        while True:
            if done % every == 0 or done == config.num_steps:
                params = {name: leaf.clone() for name, leaf in unstack(weights.leaves, 0).items()}
                yield Checkpoint(done, params, losses)
                losses = losses[:0]
            if done == config.num_steps:
                return
            count = min(block, every - done % every, config.num_steps - done)
            batches.load(count, indices.draw(count))
            for step in range(count):
                gradient.flat.zero_()
                batches.add_gradient(step, weights.leaves, gradient.leaves, 1.0)
                optimiser.step()
            done += count
            losses = torch.cat([losses, batches.losses().squeeze(1)])
            keeper.tick()


def _optimiser(weights: Tensor, config: TrainingConfig) -> torch.optim.Optimizer:
    if config.optim == "adam":
        return torch.optim.Adam([weights], lr=config.learning_rate)
    return torch.optim.SGD([weights], lr=config.learning_rate, momentum=config.momentum or 0.0)
