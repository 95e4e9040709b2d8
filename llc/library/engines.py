"""Two ways to run a stack of chains through a module, with the same numbers to rounding.

`Plain`: one chain after another through the module itself, whose weights are views of the stack
swapped in place. It runs whatever the module runs, at no cost of its own.
`Vmapped`: all chains at once, `torch.func.vmap` over `functional_call`, its gradient traced once
and replayed. Small models, whose steps are all overhead, run many times as fast; convolutions and
wide layers do not, and modules that look at their numbers (`if x.sum() > 0`) do not run at all.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from llc.library.compiling import Compiling
from llc.library.data import Examples
from llc.library.losses import Objective
from llc.library.network import Network, gather, scatter
from llc.library.replay import Adding, Flat, Replay, Traces, adding
from llc.library.traced import replaying
from llc.params import Params, Stack, derive

Chain = tuple[Tensor, ...]  # one chain's free leaves


class Engine(Protocol):
    """Runs C chains on a batch each: leaves (C, *shape), examples (C, B, …) or (1, B, …) shared.

    It holds a module of its own: whoever runs on another thread needs another engine.
    """

    def losses(self, weights: Params, batch: Examples) -> Tensor:
        """(C, B) loss of every example."""

    def add_gradient(self, weights: Params, batch: Examples, out: Params, scale: float) -> Tensor:
        """out ← out + scale·∇Σℓ, summed over the batch; returns Σℓ, (C,).

        A sum, since a mean's gradient may underflow in half precision.
        """

    def descend(
        self,
        path: Sequence[Stack],
        batches: Sequence[Examples],
        keep: Sequence[float],
        scale: float,
    ) -> Tensor | None:
        """`LossBlock.descend`, a batch a step, with Σℓ for L_B; returns Σℓ (K, C) of each step, or
        None, nothing done, where one step after another is as good."""


class Plain:
    """One chain after another."""

    def __init__(
        self, network: Network, objective: Objective, compiling: Compiling | None = None
    ) -> None:
        self.network, self.objective = network, objective
        self.compiled = compiling(self._total) if compiling else None
        leaves = dict(network.module.named_parameters())
        self.names = list(network.free)
        self.parameters = [leaves[name] for name in self.names]
        self.home = tuple(parameter.data for parameter in self.parameters)
        self.indices = [network.free[name] for name in self.names]

    @torch.no_grad()
    def losses(self, weights: Params, batch: Examples) -> Tensor:
        rows = []
        for index, chain in enumerate(self._by_chain(weights)):
            self._put(chain)
            rows.append(self._losses(_of_chain(batch, index)))
        self._let_go()
        return torch.stack(rows)

    @torch.enable_grad()
    def add_gradient(self, weights: Params, batch: Examples, out: Params, scale: float) -> Tensor:
        values = []
        chains, totals = derive(weights, self._by_chain), derive(out, self._by_chain)
        for index, (chain, total) in enumerate(zip(chains, totals, strict=True)):
            self._put(chain)
            loss = (self.compiled or self._total)(_of_chain(batch, index))
            grads = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
            free = [gather(grad, i) for grad, i in zip(grads, self.indices, strict=True)]
            torch._foreach_add_(total, free, alpha=scale)
            values.append(loss.detach())
            del grads, free  # before the next chain's come
        self._let_go()
        return torch.stack(values)

    def descend(self, *_: Any) -> None:
        return None

    def _by_chain(self, params: Params) -> list[Chain]:
        return list(zip(*(params[name].unbind() for name in self.names), strict=True))

    def _put(self, chain: Chain) -> None:
        """Run at these weights from now on."""
        for parameter, index, leaf in zip(self.parameters, self.indices, chain, strict=True):
            if index is None:
                parameter.data = leaf
            else:
                parameter.data.view(-1).index_copy_(0, index, leaf)

    def _let_go(self) -> None:
        """Keep no stack in memory that nobody else needs."""
        for parameter, index, leaf in zip(self.parameters, self.indices, self.home, strict=True):
            if index is None:
                parameter.data = leaf

    def _losses(self, batch: Examples) -> Tensor:
        return self.objective(self.network.call(batch.inputs), batch.targets, batch.number)

    def _total(self, batch: Examples) -> Tensor:
        return self._losses(batch).sum()


class Vmapped:
    """All chains at once."""

    def __init__(
        self, network: Network, objective: Objective, compiling: Compiling | None, traces: Traces
    ) -> None:
        self.network, self.objective = network, objective
        self.compiling, self.traces = compiling, traces
        self.fixed = {
            name: leaf.detach().clone()
            for name, leaf in network.module.named_parameters()
            if network.free.get(name) is not None
        }
        self._gradients: dict[tuple[Any, ...], Adding] = {}  # by the shapes they are for

    @torch.no_grad()
    def losses(self, weights: Params, batch: Examples) -> Tensor:
        inputs, axis = _axis(batch)
        run = vmap(lambda one, data: self._losses(one, data), in_dims=(0, axis))
        return _plain_tensor(run(dict(weights), tuple(inputs)))

    def add_gradient(self, weights: Params, batch: Examples, out: Params, scale: float) -> Tensor:
        return self._adding(weights, batch)(weights, batch.leaves(), out, scale)

    def descend(
        self,
        path: Sequence[Stack],
        batches: Sequence[Examples],
        keep: Sequence[float],
        scale: float,
    ) -> Tensor | None:
        add = self._adding(path[0].leaves, batches[0])
        if not isinstance(add, Replay) or add.walk is None:
            return None
        return add.descend(path, [batch.leaves() for batch in batches], keep, scale)

    def _adding(self, weights: Params, batch: Examples) -> Adding:
        """What adds the gradient of such a batch."""
        examples = batch.leaves()
        key = (len(next(iter(weights.values()))), *[leaf.shape for leaf in examples])
        add = self._gradients.get(key)
        if add is None:
            function, leaves = self._gradient(weights, batch), [*weights.values()]
            add = self.traces.get(
                (leaves[0].dtype, *key),
                lambda: replaying(function, leaves, examples, self.compiling),
            ) or adding(function, self.compiling)
            self._gradients[key] = add
        return add

    def _gradient(self, weights: Params, batch: Examples) -> Flat:
        """(free leaves, tensors of a batch) -> (∇Σℓ by leaf, Σℓ)."""
        names, structure = list(weights), tree_flatten(batch)[1]

        def total(one: Params, data: tuple[Any, Any]) -> Tensor:
            return self._losses(one, data).sum()

        def gradient(*leaves: Tensor) -> list[Tensor]:
            one = dict(zip(names, leaves[: len(names)], strict=True))
            data, axis = _axis(tree_unflatten(leaves[len(names) :], structure))
            with torch.enable_grad():
                run = vmap(grad_and_value(total), in_dims=(0, axis))
                grads, values = run(one, tuple(data))
            return [*(grads[name] for name in names), values]

        return gradient

    def _losses(self, one: Params, examples: tuple[Any, Any]) -> Tensor:
        leaves = {
            name: scatter(self.fixed.get(name, leaf), self.network.free[name], leaf)
            for name, leaf in one.items()
        }
        batch = Examples(*examples)
        outputs = self.network.call(batch.inputs, leaves)
        return self.objective(outputs, batch.targets, batch.number)


ENGINES = ("vmap", "plain")


def make_engine(
    name: str,
    network: Network,
    objective: Objective,
    compiling: Compiling | None,
    traces: Traces,
) -> Engine:
    """An engine on `network`, which it has to itself; its gradients are compiled if `compiling`.

    traces: those of the engines of other threads, of the same network and objective.
    """
    if name == "plain":
        return Plain(network, objective, compiling)
    return Vmapped(network, objective, compiling, traces)


def _of_chain(batch: Examples, chain: int) -> Examples:
    """The batch (B, …) of one chain."""
    return batch.map(lambda t: t[chain if len(t) > 1 else 0])


def _axis(batch: Examples) -> tuple[Examples, int | None]:
    """What `vmap` maps over: the chains' own batches, or one that they share."""
    return (batch.map(lambda t: t[0]), None) if batch.number == 1 else (batch, 0)


def _plain_tensor(values: Any) -> Tensor:
    assert isinstance(values, Tensor)
    return values
