"""Training on the same gradients the samplers use."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from llc.checkpoints import Keeper
from llc.config import TrainingConfig
from llc.models.base import StackedLoss, block_steps
from llc.params import Layout, Params, stack, unstack
from llc.streams import ShuffledBatches, Stream
from llc.training.loop import Checkpoint, Label, checkpoints, optimiser


def train(
    loss: StackedLoss,
    start: Params,
    config: TrainingConfig,
    stream: Stream,
    every: int,
    keeper: Keeper | None = None,
    label: Label | None = None,
) -> Iterator[Checkpoint]:
    """Train one network from `start` on L_B alone and yield its checkpoints.

    Plain SGD (with momentum where given) or Adam, from torch.optim; minibatches in shuffled
    epochs. The first checkpoint is the start, then every `every` steps and the last one. A training
    that blows up yields non-finite losses and parameters: the caller decides what that means.
    `keeper`, `label`: see `training.loop.checkpoints`.
    """
    trainer = _StackedTrainer(loss, start, config, stream)
    return checkpoints(trainer, config.num_steps, every, keeper, label)


class _StackedTrainer:
    """A stack of one."""

    def __init__(
        self, loss: StackedLoss, start: Params, config: TrainingConfig, stream: Stream
    ) -> None:
        layout = Layout(loss.shapes, 1)
        self.weights = layout.pack(stack([start]))
        flat = self.weights.flat
        self.gradient = layout.stack(torch.zeros_like(flat))
        flat.grad = self.gradient.flat
        self.optimiser = optimiser([flat], config)
        self.indices = ShuffledBatches(
            [stream], loss.num_examples, config.batch_size, flat.device, purpose="training_batches"
        )
        self.block = block_steps(loss, config.batch_size, chains=1)
        leaves = self.weights.leaves
        self.batches = loss.block(leaves, loss.reference(leaves), self.block)

    def advance(self, steps: int) -> Tensor:
        weights, gradient = self.weights, self.gradient
        self.batches.load(steps, self.indices.draw(steps))
        for step in range(steps):
            gradient.flat.zero_()
            self.batches.add_gradient(step, weights.leaves, gradient.leaves, 1.0)
            self.optimiser.step()
        return self.batches.losses().squeeze(1).clone()

    def params(self) -> Params:
        return {name: leaf.clone() for name, leaf in unstack(self.weights.leaves, 0).items()}

    def state(self) -> dict[str, Any]:
        return {
            "weights": self.weights.flat,
            "optimiser": self.optimiser.state_dict(),
            "batches": self.indices.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.weights.flat.copy_(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.indices.restore(state["batches"])
