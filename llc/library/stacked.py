"""A user's model and data as `llc.models.base.StackedLoss`."""

import threading
from collections.abc import Iterable, Sequence
from copy import copy
from operator import is_
from typing import Any

import torch
from torch import Tensor

from llc.library.compiling import Compiling
from llc.library.data import Data, Examples
from llc.library.engines import Engine, make_engine
from llc.library.losses import Objective
from llc.library.network import Network
from llc.library.replay import Traces
from llc.models.base import EVERY, LossBlock, rows_of_each
from llc.params import Params, Shapes, Stack


class LibraryLoss:
    """Mean loss of a model over its examples, as a function of its free coordinates.

    network, data: on one device. at_once: examples that go through the network together, at most.
    engine: 'vmap' or 'plain'.
    """

    def __init__(
        self, network: Network, data: Data, objective: Objective, at_once: int, engine: str
    ) -> None:
        self.network, self.data, self.objective = network, data, objective
        self.at_once, self.engine = at_once, engine
        self.compiling: Compiling | None = None
        self.shapes: Shapes = network.shapes
        self.num_examples = data.number
        self.centre = network.centre()
        self._of_thread, self._traces = threading.local(), Traces()
        self._at_centre: Tensor | None = None

    def numbers_per_step(self, batch_size: int) -> int:
        return 1 if batch_size >= self.num_examples else batch_size * (1 + self.data.numbers())

    def examples_per_step(self, batch_size: int) -> int:
        return batch_size

    @torch.no_grad()
    def reference(self, centres: Params) -> Tensor:
        """(S, n) losses of every example at w*; (S, 1), their mean, where the loss is a mean.

        At the model's own w* they are computed once.
        """
        if not all(torch.equal(centres[name], leaf) for name, leaf in self.centre.items()):
            return self._reference(centres)
        if self._at_centre is None:
            self._at_centre = self._reference(centres)
        return self._at_centre

    def full_data(self, weights: Params) -> Tensor:
        return self.reference(weights).double().mean(-1)

    def block(self, like: Params, reference: Tensor, steps: int) -> "LibraryBlock":
        return LibraryBlock(self, like, reference, steps)

    def select(self, index: slice) -> "LibraryLoss":
        return self

    def repeat(self, times: int) -> "LibraryLoss":
        return self

    def to(self, device: torch.device) -> "LibraryLoss":
        """The same loss elsewhere."""
        like = next(iter(self.centre.values()))
        if like.device == device:
            return self
        moved = LibraryLoss(
            self.network.to(device, like.dtype),
            self.data.to(device, like.dtype),
            self.objective,
            self.at_once,
            self.engine,
        )
        moved.compiling = self.compiling
        if self._at_centre is not None:
            moved._at_centre = self._at_centre.to(device)
        return moved

    def run_by(self, engine: str, compiling: Compiling | None = None) -> "LibraryLoss":
        """The same loss on another engine, its gradients compiled if `compiling`."""
        other = copy(self)
        other.engine, other.compiling = engine, compiling
        other._of_thread, other._traces = threading.local(), Traces()
        return other

    def by_columns(self) -> "LibraryLoss":
        """The same loss on `Examples.by_columns`; itself where they do not change."""
        if not isinstance(self.data, Examples):
            return self
        other = self.data.by_columns()
        if all(map(is_, other.leaves(), self.data.leaves())):
            return self
        laid = self.run_by(self.engine, self.compiling)
        laid.data = other
        return laid

    def on(self, data: Examples) -> "LibraryLoss":
        """The same loss of other data, by the same engines."""
        other = copy(self)
        other.data, other.num_examples, other._at_centre = data, data.number, None
        return other

    def engine_for(self, like: Tensor) -> Engine:
        """An engine in the precision of `like`, this thread's own."""
        engines: dict[Any, Engine] = self._of_thread.__dict__
        name = like.dtype
        if name not in engines:
            network = self.network.to(like.device, like.dtype)
            engines[name] = make_engine(
                self.engine, network, self.objective, self.compiling, self._traces
            )
        return engines[name]

    @torch.no_grad()
    def losses(self, weights: Params) -> Tensor:
        """(C, n) of every example, or (C, n, T) where the objective tells tokens apart."""
        like = next(iter(weights.values()))
        engine, parts = self.engine_for(like), []
        for part in self.data.parts(self.at_once):
            batch = part.to(like.device, like.dtype).map(lambda t: t[None])
            parts.append(engine.losses(weights, batch))
        return torch.cat(parts, 1)

    def _reference(self, centres: Params) -> Tensor:
        losses = self.losses(centres)
        if not self.objective.mean:
            return losses
        return losses.double().mean(1, keepdim=True).to(next(iter(centres.values())))


class LibraryBlock(LossBlock):
    """K minibatches of C chains; see `models.base.LossBlock`."""

    def __init__(self, loss: LibraryLoss, like: Params, reference: Tensor, steps: int) -> None:
        first = next(iter(like.values()))
        self.loss, self.like, self.chains = loss, first, len(first)
        self.centre_losses = reference
        self._room: Examples | None = None  # of the longest block so far
        self._losses = list(first.new_zeros(steps, self.chains))  # Σℓ

    def load(self, steps: int, indices: Tensor | None) -> None:
        loss, self.used = self.loss, steps
        self._batches: list[Examples] | None = None  # of each step; where None, all the data
        if indices is not None:
            self.size = indices.shape[-1]
            rows = loss.data.rows(indices, self.like, self._room)
            if self._room is None or len(rows.leaves()[0]) > len(self._room.leaves()[0]):
                self._room = rows
            self._batches = rows.unbind()
        else:
            self.size = loss.num_examples
        if indices is None or loss.objective.mean:
            self._baselines = self.centre_losses.mean(-1).expand(steps, self.chains)
        else:
            values = rows_of_each(self.centre_losses.unsqueeze(-1), indices)
            self._baselines = values.squeeze(-1).mean(-1).expand(-1, self.chains)

    def add_gradient(self, step: int, weights: Params, out: Params, scale: float) -> None:
        engine, scale = self.loss.engine_for(self.like), scale / self.size
        first, *others = (
            engine.add_gradient(weights, batch, out, scale) for batch in self._parts(step)
        )
        self._losses[step] = sum(others, first)

    def descend(
        self, path: Sequence[Stack], steps: range, keep: Sequence[float], scale: float
    ) -> None:
        if steps and self.size <= self.loss.at_once:
            engine = self.loss.engine_for(self.like)
            batches = [part for step in steps for part in self._parts(step)]
            here = path[steps.start : steps.stop + 1]
            values = engine.descend(here, batches, keep, scale / self.size)
            if values is not None:
                self._losses[steps.start : steps.stop] = values.unbind()
                return
        super().descend(path, steps, keep, scale)

    def _parts(self, step: int) -> Iterable[Examples]:
        """The step's batch (C, B, …) or (1, B, …), as much at once as the network may see."""
        at_once = self.loss.at_once
        if self._batches is None:
            like = self.like
            parts = self.loss.data.parts(at_once)
            return (part.to(like.device, like.dtype).map(lambda t: t[None]) for part in parts)
        batch = self._batches[step]
        return (batch,) if self.size <= at_once else batch.parts(at_once, axis=1)

    def losses(self, steps: slice = EVERY) -> Tensor:
        return torch.stack(self._losses[: self.used][steps]) / self.size

    def baselines(self, steps: slice = EVERY) -> Tensor:
        return self._baselines[: self.used][steps]
