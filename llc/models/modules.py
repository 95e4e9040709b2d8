"""Any classifier that is a `torch.nn.Module`, with cross-entropy, one chain after another.

    L_B(w) = mean over the examples of B of −Σ_k q_k log softmax(f(x; w))_k,
q one-hot for a label, or given probabilities of the classes.

Convolutions do not love the chain axis: vmapped, they become grouped convolutions, and that is
slower than one chain after another through the plain module, whose weights are views of the stack
swapped in place.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from llc.models.base import EVERY, LossBlock, rows_of_each
from llc.params import Params, derive

CHUNK = 512  # examples at once where all data are looked at: bounds the activations held

Chain = tuple[Tensor, ...]  # one chain's leaves, in the order of the module's parameters


class Score(NamedTuple):
    """How well a classifier does."""

    loss: float  # mean cross-entropy
    accuracy: float


def weights_of(module: nn.Module) -> Params:
    """w* of a module: copies of its parameters, by name."""
    return {name: leaf.detach().clone() for name, leaf in module.named_parameters()}


@torch.no_grad()
def predict(module: nn.Module, inputs: Tensor) -> Tensor:
    """Logits (n, K) in evaluation mode, in chunks of bounded memory; `module` stays as it was."""
    with _evaluating(module):
        return torch.cat([module(part) for part in torch.split(inputs, CHUNK)])


def evaluate(module: nn.Module, inputs: Tensor, labels: Tensor) -> Score:
    """Mean cross-entropy and accuracy on labels (n,), as `predict` sees the inputs."""
    logits = predict(module, inputs)
    hits = (logits.argmax(1) == labels).double().mean()
    return Score(float(cross_entropy(logits.double(), labels)), float(hits))


class ModuleLoss:
    """Mean cross-entropy of a module on inputs (n, …), on the module's device.

    `targets`: labels (n,) int64, or class probabilities (n, K). The module is copied, and the copy
    held in evaluation mode: BatchNorm uses its running statistics of now, dropout is off, no buffer
    changes. With `autocast`, forward passes run in that precision, whatever surrounds them.
    Raises: ValueError for parameters that are tied or frozen, or targets that do not fit.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        autocast: torch.dtype | None = None,
    ) -> None:
        _check_parameters(module)
        _check_targets(inputs, targets)
        self.module = deepcopy(module).eval()  # only ever copied: see `Runner`
        self.module.zero_grad(set_to_none=True)
        self.inputs, self.targets, self.autocast = inputs, targets, autocast
        self.shapes = {name: tuple(leaf.shape) for name, leaf in self.module.named_parameters()}
        self.num_examples = len(inputs)

    def numbers_per_step(self, batch_size: int) -> int:
        if batch_size >= self.num_examples:
            return 1  # nothing is gathered
        return batch_size * (self.inputs[0].numel() + self.targets[0].numel())

    def examples_per_step(self, batch_size: int) -> int:
        return batch_size

    @torch.no_grad()
    def reference(self, centres: Params) -> Tensor:
        """(S, n) losses of every example at w*, in its precision."""
        runner, rows = Runner(self), []
        runner.module.to(next(iter(centres.values())).dtype)
        for chain in self.by_chain(centres):
            runner.put(chain)
            rows.append(torch.cat([runner.losses(*part) for part in self.parts()]))
        return torch.stack(rows)

    def block(self, like: Params, reference: Tensor, steps: int) -> "ModuleBlock":
        return ModuleBlock(self, like, reference, steps)

    def full_data(self, weights: Params) -> Tensor:
        return self.reference(weights).double().mean(-1)

    def parts(self) -> Iterable[tuple[Tensor, Tensor]]:
        """All inputs and targets, in chunks."""
        return zip(torch.split(self.inputs, CHUNK), torch.split(self.targets, CHUNK), strict=True)

    def by_chain(self, params: Params) -> list[Chain]:
        """Views of the leaves (C, *shape), chain by chain."""
        return list(zip(*(params[name].unbind() for name in self.shapes), strict=True))

    def select(self, index: slice) -> "ModuleLoss":
        return self

    def repeat(self, times: int) -> "ModuleLoss":
        return self


class Runner:
    """A copy of a loss's module that runs at any weights, which it is given without copying.

    Chain groups run on threads of their own: whoever runs a module needs one to itself.
    """

    def __init__(self, loss: ModuleLoss) -> None:
        self.module, self.autocast = deepcopy(loss.module), loss.autocast
        self.parameters = list(self.module.parameters())

    def put(self, chain: Chain) -> None:
        """Run at these weights from now on."""
        for parameter, leaf in zip(self.parameters, chain, strict=True):
            parameter.data = leaf

    def add_to(self, totals: Chain) -> None:
        """Backward passes add to these from now on: no gradient is ever held whole."""
        for parameter, total in zip(self.parameters, totals, strict=True):
            parameter.grad = total

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) cross-entropies, in the precision of the weights."""
        precision = torch.autocast(
            inputs.device.type,
            self.autocast,
            enabled=self.autocast is not None,
            cache_enabled=False,  # within another autocast it would outlive the chain's weights
        )
        with precision:
            logits = self.module(_like(self.parameters[0], inputs))
        own = logits.to(self.parameters[0].dtype)
        return cross_entropy(own, _like(own, targets), reduction="none")


class ModuleBlock(LossBlock):
    """K minibatches of C chains; see `models.base.LossBlock`."""

    def __init__(self, loss: ModuleLoss, like: Params, reference: Tensor, steps: int) -> None:
        first = next(iter(like.values()))
        self.loss, self.runner, self.chains = loss, Runner(loss), len(first)
        self.centre_losses = reference
        self._losses = first.new_zeros(steps, self.chains)

    def load(self, steps: int, indices: Tensor | None) -> None:
        loss, self.used = self.loss, steps
        self._batches: tuple[Tensor, Tensor] | None = None  # where None, all the data
        if indices is None:
            self.size = loss.num_examples
            self._baselines = self.centre_losses.mean(-1).expand(steps, self.chains)
            return
        self.size = indices.shape[-1]
        self._batches = _gather(loss.inputs, indices), _gather(loss.targets, indices)
        values = rows_of_each(self.centre_losses.unsqueeze(-1), indices)
        self._baselines = values.squeeze(-1).mean(-1).expand(-1, self.chains)

    @torch.enable_grad()
    def add_gradient(self, step: int, weights: Params, out: Params, scale: float) -> None:
        chains, totals = derive(weights, self.loss.by_chain), derive(out, self.loss.by_chain)
        self._losses[step].zero_()
        for index, (chain, total) in enumerate(zip(chains, totals, strict=True)):
            self.runner.put(chain)
            self.runner.add_to(total)
            for inputs, targets in self._parts(step, index):
                loss = self.runner.losses(inputs, targets).sum() / self.size
                (scale * loss).backward()  # type: ignore[no-untyped-call]
                self._losses[step, index] += loss.detach()

    def _parts(self, step: int, chain: int) -> Iterable[tuple[Tensor, Tensor]]:
        """The batch of a chain: in one piece, or in chunks where it is all the data."""
        if self._batches is None:
            return self.loss.parts()
        inputs, targets = self._batches
        stream = chain if inputs.shape[1] > 1 else 0
        return [(inputs[step, stream], targets[step, stream])]

    def losses(self, steps: slice = EVERY) -> Tensor:
        return self._losses[: self.used][steps].clone()  # a step may be asked about again

    def baselines(self, steps: slice = EVERY) -> Tensor:
        return self._baselines[: self.used][steps]


def _like(weights: Tensor, values: Tensor) -> Tensor:
    """Values in the weights' precision; whole numbers (labels, tokens) stay what they are."""
    return values.to(weights.dtype) if values.is_floating_point() else values


def _gather(table: Tensor, indices: Tensor) -> Tensor:
    """Rows (K, S, B, …) of a table (n, …)."""
    return table.index_select(0, indices.flatten()).view(*indices.shape, *table.shape[1:])


def _check_parameters(module: nn.Module) -> None:
    distinct = dict(module.named_parameters())
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if name not in distinct:
            raise ValueError(f"module: parameter {name!r} is tied to another: untie them")
        if not parameter.requires_grad:
            raise ValueError(
                f"module: parameter {name!r} has requires_grad=False: make it a buffer to keep it "
                "fixed, or set requires_grad to sample it"
            )


def _check_targets(inputs: Tensor, targets: Tensor) -> None:
    labels = targets.dim() == 1 and targets.dtype == torch.int64
    probabilities = targets.dim() == 2 and targets.is_floating_point()
    if len(targets) != len(inputs) or not (labels or probabilities):
        raise ValueError(
            f"targets: {tuple(targets.shape)} of {targets.dtype} for {len(inputs)} inputs: give "
            "int64 labels (n,) or class probabilities (n, K)"
        )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every submodule is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
