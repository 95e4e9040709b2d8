"""A look at model, loss and data at w*, before any chain starts."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from llc.library.data import Data, Examples
from llc.library.losses import Loss, Objective, check_classes, cross_entropy
from llc.library.network import Network
from llc.library.outputs import ALIKE, alike, same, tensors
from llc.library.watch import Watch
from llc.library.words import first_line

LOOKED_AT = 4  # examples


def objective_of(
    model: nn.Module, network: Network, data: Data, loss: Loss, at_once: int
) -> Objective:
    """The loss, having been found to give one number an example (or token), or their mean.

    network: a copy of `model` which nothing else runs. at_once: examples of a larger look.
    Raises: ValueError, with the reason, where model or loss fail, are random, mix examples, write
        in place, are not finite or not differentiable at w*.
    """
    watch = Watch(network.module, next(data.parts(min(LOOKED_AT, data.number))))
    few = watch.examples
    outputs = _outputs(network, few.inputs)
    watch.check()
    if loss is cross_entropy:
        check_classes(outputs, few.targets)
    values = _values(loss, outputs, few)
    watch.check()
    if not bool(values.isfinite().all()):
        raise ValueError(
            "loss: is not finite at w* on the first examples: look at the data and the weights"
        )
    objective = Objective(loss, mean=values.dim() == 0)
    if not same(_outputs(network, few.inputs), _outputs(network, few.inputs)):
        raise ValueError(
            "model: gives other outputs on the same inputs in evaluation mode: λ̂ "
            "needs a function of the weights; seed or switch off what is random"
        )
    if objective.mean:
        _check_mean(network, few, loss, values)
    else:
        _check_apart(network, few, objective)
    _check_gradients(model, network, data, few, objective, at_once)
    return objective


def _outputs(network: Network, inputs: Any) -> Any:
    try:
        with torch.no_grad():
            return network.call(inputs)
    except Exception as error:
        raise ValueError(f"model: fails on a batch of the data: {first_line(error)}") from error


def _values(loss: Loss, outputs: Any, batch: Examples) -> Tensor:
    """What the loss returns, found to be of the right shape."""
    try:
        values = loss(outputs, batch.targets)
    except Exception as error:
        shapes = ", ".join(str(tuple(one.shape)) for one in tensors(outputs))
        raise ValueError(
            f"loss: fails on outputs {shapes or type(outputs).__name__} of the model: "
            f"{first_line(error)}"
        ) from error
    if not isinstance(values, Tensor) or not values.is_floating_point():
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"loss: returned {kind}: must be a tensor of real numbers, one an example")
    if values.dim() and len(values) != batch.number:
        raise ValueError(
            f"loss: returned {tuple(values.shape)} for {batch.number} examples: must be one value "
            "an example (B,), one a token (B, T), or their mean"
        )
    return values


def _check_mean(network: Network, few: Examples, loss: Loss, value: Tensor) -> None:
    """A mean stays when every example comes twice, and a sum doubles."""
    twice = few.map(lambda t: torch.cat([t, t]))
    doubled = _values(loss, _outputs(network, twice.inputs), twice)
    if abs(float(value)) > 1e-12 and abs(float(doubled / value) - 2) < ALIKE:
        raise ValueError(
            "loss: is a sum over the batch: return one value an example (reduction='none'), or "
            "their mean"
        )


def _check_apart(network: Network, few: Examples, objective: Objective) -> None:
    """An example's loss does not depend on the others in the batch."""
    few = _swapped(few)

    def losses(batch: Examples) -> Tensor:
        values = _values(objective.loss, _outputs(network, batch.inputs), batch)
        return objective.of_each(values, batch.number)

    together = losses(few)
    apart = torch.cat([losses(one) for one in few.parts(-(-few.number // 2))])
    if not alike(together, apart):
        raise ValueError(
            "model: an example's loss depends on the others in its batch (BatchNorm without "
            "running statistics?): give a loss that returns the batch's mean, or change the model"
        )


def _swapped(few: Examples) -> Examples:
    """Each with another's target, since its own may be met but for rounding."""
    return few._replace(targets=tree_map(lambda t: t.roll(1, 0), few.targets))


def _check_gradients(
    model: nn.Module,
    network: Network,
    data: Data,
    few: Examples,
    objective: Objective,
    at_once: int,
) -> None:
    other = _swapped(few)
    with torch.no_grad():
        without = objective(network.call(other.inputs), other.targets, other.number)
    if not alike(_differentiable(network, other, objective).detach(), without):
        raise ValueError(
            "model: gives other losses with gradients than without, so that L(w) and L(w*) would "
            "not be of the same function: let forward not ask torch.is_grad_enabled()"
        )
    losses = _differentiable(network, few, objective)
    _check_own(model, losses)
    grads = _gradients(network, losses)
    if any(grad is None for grad in grads.values()):  # parts that a few examples do not reach
        batch = next(data.parts(min(at_once, data.number)))
        grads = _gradients(network, _differentiable(network, batch, objective))
    missing = [name for name, grad in grads.items() if grad is None]
    if missing:
        raise ValueError(
            f"model: the loss has no gradient in {', '.join(map(repr, missing[:4]))}"
            f"{' …' * (len(missing) > 4)}: hold such parameters fixed with requires_grad_(False), "
            "or choose others with params="
        )
    bad = [name for name, g in grads.items() if g is not None and not bool(g.isfinite().all())]
    if bad:
        raise ValueError(f"loss: its gradient in {bad[0]!r} is not finite at w*: there is no step")


def _differentiable(network: Network, batch: Examples, objective: Objective) -> Tensor:
    """(B,) losses with their graph."""
    try:
        with torch.enable_grad():
            losses = objective(network.call(batch.inputs), batch.targets, batch.number)
    except Exception as error:
        raise ValueError(f"model: fails with gradients on: {first_line(error)}") from error
    if not losses.requires_grad:
        raise ValueError(
            "loss: has no gradient: compute it from the model's outputs without detach(), item() "
            "or no_grad()"
        )
    return losses


def _gradients(network: Network, losses: Tensor) -> dict[str, Tensor | None]:
    """Of Σℓ, by the names of free parameters; None where it does not depend on one."""
    leaves = dict(network.module.named_parameters())
    free = [leaves[name] for name in network.free]
    try:
        with torch.enable_grad():
            total = losses.sum()
        grads = torch.autograd.grad(total, free, allow_unused=True)
    except Exception as error:
        raise ValueError(f"model: its gradient fails at w*: {first_line(error)}") from error
    return dict(zip(network.free, grads, strict=True))


def _check_own(model: nn.Module, losses: Tensor) -> None:
    """Raise ValueError where the copy computes with parameters of the model it was copied from."""
    names = {id(leaf): name for name, leaf in model.named_parameters()}
    found = next((names[id(leaf)] for leaf in _sources(losses) if id(leaf) in names), None)
    if found:
        raise ValueError(
            f"model: a function kept in it, or the loss, computes with {found!r} of the model "
            "itself, which the chains' copies never move: make it a method, or use no_grad() where "
            "w* is meant"
        )


def _sources(value: Tensor) -> Iterator[Tensor]:
    """The tensors that gradients of `value` would be accumulated in."""
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().endswith("AccumulateGrad"):
            yield node.variable  # type: ignore[attr-defined]
        waiting += [one for one, _ in node.next_functions]
