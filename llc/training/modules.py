"""Training a classifier, of tokens too, that is a `torch.nn.Module`."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from llc.checkpoints import Keeper
from llc.config import TrainingConfig
from llc.models.modules import weights_of
from llc.params import Params
from llc.streams import ShuffledBatches, Stream
from llc.training.loop import Checkpoint, Label, checkpoints, optimiser


def train_classifier(
    module: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    config: TrainingConfig,
    stream: Stream,
    every: int,
    *,
    l2: float = 0.0,
    autocast: torch.dtype | None = None,
    keeper: Keeper | None = None,
    label: Label | None = None,
) -> Iterator[Checkpoint]:
    """Train `module` in place, in training mode, on mean cross-entropy + l2·Σ‖p‖².

    Inputs (n, …) and labels (n,), or (n, T) for logits (n, T, K), on the module's device;
    minibatches in shuffled epochs. Yields the start, then every `every` steps and the last one;
    meanwhile `module` itself, buffers included, stands at that checkpoint. The losses contain the
    penalty. `keeper`, `label`: see `training.loop.checkpoints`.
    """
    trainer = _ModuleTrainer(module, inputs, labels, config, stream, l2, autocast)
    return checkpoints(trainer, config.num_steps, every, keeper, label)


class _ModuleTrainer:
    """A module and its optimiser."""

    block = 1

    def __init__(
        self,
        module: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        config: TrainingConfig,
        stream: Stream,
        l2: float,
        autocast: torch.dtype | None,
    ) -> None:
        self.module, self.inputs, self.labels = module, inputs, labels
        self.l2, self.autocast = l2, autocast
        self.weights: list[Tensor] = list(module.parameters())
        self.optimiser = optimiser(self.weights, config)
        self.indices = ShuffledBatches(
            [stream], len(inputs), config.batch_size, inputs.device, purpose="training_batches"
        )

    def advance(self, steps: int) -> Tensor:
        self.module.train()
        return torch.stack([self._step(rows) for rows in self.indices.draw(steps).squeeze(1)])

    def _step(self, rows: Tensor) -> Tensor:
        inputs, labels = self.inputs.index_select(0, rows), self.labels.index_select(0, rows)
        with torch.autocast(inputs.device.type, self.autocast, enabled=self.autocast is not None):
            logits = self.module(inputs)
        classes_first = logits.to(self.weights[0].dtype).movedim(-1, 1)
        loss = cross_entropy(classes_first, labels) + self.penalty()
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return loss.detach()

    def penalty(self) -> Tensor | float:
        if not self.l2:
            return 0.0
        return self.l2 * torch.stack([leaf.square().sum() for leaf in self.weights]).sum()

    def params(self) -> Params:
        return weights_of(self.module)

    def state(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "batches": self.indices.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.indices.restore(state["batches"])
