"""Minibatch training that yields checkpoints, on the same gradients the samplers use."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from llc.config import TrainingConfig
from llc.models.base import StackedLoss, block_steps
from llc.params import Layout, Params, Stack, stack, unstack
from llc.streams import ShuffledBatches, Stream


class Checkpoint(NamedTuple):
    """The network after `step` optimiser steps."""

    step: int
    params: Params  # unstacked, a copy
    losses: Tensor  # minibatch losses of the steps since the last checkpoint, each before its step

    @classmethod
    def of(cls, step: int, weights: Stack, losses: list[Tensor]) -> "Checkpoint":
        """A copy of `weights`, a stack of one."""
        params = {name: leaf.clone() for name, leaf in unstack(weights.leaves, 0).items()}
        return cls(step, params, torch.cat(losses) if losses else weights.flat.new_empty(0))


def train(
    loss: StackedLoss, start: Params, config: TrainingConfig, stream: Stream, every: int
) -> Iterator[Checkpoint]:
    """Train one network and yield `start`, then the network every `every` steps and at the last.

    Plain SGD (with momentum where given) or Adam, from torch.optim, on L_B alone; minibatches in
    shuffled epochs. A training that blows up yields non-finite losses and parameters: the caller
    decides what that means.
    """
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
    losses: list[Tensor] = []
    done = 0
    yield Checkpoint.of(done, weights, losses)
    while done < config.num_steps:
        count = min(block, every - done % every, config.num_steps - done)
        batches.load(count, indices.draw(count))
        for step in range(count):
            gradient.flat.zero_()
            batches.add_gradient(step, weights.leaves, gradient.leaves, 1.0)
            optimiser.step()
        done += count
        losses.append(batches.losses().squeeze(1).clone())
        if done % every == 0 or done == config.num_steps:
            yield Checkpoint.of(done, weights, losses)
            losses = []


def _optimiser(weights: Tensor, config: TrainingConfig) -> torch.optim.Optimizer:
    if config.optim == "adam":
        return torch.optim.Adam([weights], lr=config.learning_rate)
    return torch.optim.SGD([weights], lr=config.learning_rate, momentum=config.momentum or 0.0)
