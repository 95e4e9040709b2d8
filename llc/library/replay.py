"""What adds gradients to a buffer: a function as it is, or the operations of its trace."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from threading import Lock
from typing import Any, Protocol

import torch
from torch import Tensor

from llc.library.compiling import Compiling
from llc.params import Params, Stack, derive

Flat = Callable[..., Sequence[Tensor]]  # tensors in, tensors out


class Adding(Protocol):
    """A gradient that is added to what there is."""

    def __call__(
        self, weights: Params, examples: Sequence[Tensor], out: Params, scale: float
    ) -> Tensor:
        """outᵢ ← outᵢ + scale·gᵢ(weights, examples); returns v."""


class Traces:
    """What was traced, by what it is for: threads share it, since a trace runs no module."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Adding | None] = {}
        self._making = Lock()

    def get(self, key: Hashable, make: Callable[[], Adding | None]) -> Adding | None:
        """`make()`, made once for each key."""
        with self._making:
            if key not in self._known:
                self._known[key] = make()
            return self._known[key]


def adding(function: Flat, compiling: Compiling | None = None) -> Adding:
    """Of a function(*weights, *examples) -> (*g, v) as it is, or compiled."""
    run_it = compiling(function) if compiling else function

    def run(weights: Params, examples: Sequence[Tensor], out: Params, scale: float) -> Tensor:
        *gradients, value = run_it(*weights.values(), *examples)
        torch._foreach_add_(list(out.values()), gradients, alpha=scale)
        return value

    return run


class Replay:
    """The operations of a trace, run again.

    run: (*inputs, *examples, *out, scale) -> v. views: leaves -> the inputs, where these are not
    the leaves themselves. walk: `run` for many steps in one call, where that can be.
    """

    def __init__(
        self,
        run: Callable[..., Any],
        views: Callable[..., Sequence[Tensor]] | None,
        walk: Callable[..., Any] | None = None,
    ) -> None:
        self.run, self.views, self.walk = run, views, walk

    def __call__(
        self, weights: Params, examples: Sequence[Tensor], out: Params, scale: float
    ) -> Tensor:
        value: Tensor = self.run(*self._inputs(weights), *examples, *out.values(), scale)
        return value

    def descend(
        self,
        path: Sequence[Stack],
        batches: Sequence[Sequence[Tensor]],
        keep: Sequence[float],
        scale: float,
    ) -> Tensor:
        """`LossBlock.descend` from each position of `path` to the next; returns each step's v."""
        assert self.walk is not None
        starts, ends = path[:-1], path[1:]
        values: Tensor = self.walk(
            [stack.flat for stack in path],
            [one for stack in starts for one in self._inputs(stack.leaves)],
            [tensor for batch in batches for tensor in batch],
            [leaf for stack in ends for leaf in stack.leaves.values()],
            keep,
            scale,
        )
        return values

    def _inputs(self, weights: Params) -> Iterable[Tensor]:
        # Once for a buffer: a view costs as much as a product of small matrices.
        return weights.values() if self.views is None else derive(weights, self._viewed)

    def _viewed(self, weights: Params) -> Sequence[Tensor]:
        assert self.views is not None
        return self.views(*weights.values())
