"""Whether model or loss write in place into what is not theirs: the data, or the weights."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from llc.library.data import Examples


class Watch:
    """A few examples to run a model on, and all that must be the same afterwards.

    `examples` are copies, so that the data are never what is written to.
    """

    def __init__(self, module: nn.Module, examples: Examples) -> None:
        self.module, self.examples = module, examples.map(torch.clone)
        self.before = [(what, t, t._version, t.detach().clone()) for what, t in self._held()]

    def check(self) -> None:
        """Raise ValueError for what has been written to, even if the numbers are the same."""
        for what, tensor, version, copy in self.before:
            if tensor._version != version or not _equal(tensor, copy):  # .data counts no version
                raise ValueError(what)

    def _held(self) -> Iterator[tuple[str, Tensor]]:
        """Each tensor, and what to say if it changes."""
        of_inputs = (
            "model: changes its inputs in place, and they are the data: give the first layer "
            "inplace=False, or begin forward with a copy (inputs = inputs.clone())"
        )
        of_targets = "loss: changes its targets in place: compute with targets.clone()"
        own = "in evaluation mode, and λ̂ is of fixed ones: let forward compute a new tensor instead"
        for leaf in tree_leaves(self.examples.inputs):
            yield of_inputs, leaf
        for leaf in tree_leaves(self.examples.targets):
            yield of_targets, leaf
        for name, weight in self.module.named_parameters():
            yield f"model: forward writes into parameter {name!r} (max_norm? .data?) {own}", weight
        for name, buffer in self.module.named_buffers():
            if buffer.layout == torch.strided:
                yield f"model: forward writes into buffer {name!r} {own}", buffer


def _equal(one: Tensor, other: Tensor) -> bool:
    """NaN being equal to itself."""
    return bool(((one == other) | ((one != one) & (other != other))).all())
