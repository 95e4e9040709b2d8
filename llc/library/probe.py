"""A look at the model, the loss and the data at w*, before any chain starts."""

from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from llc.library.compiling import WORTH, Compiling
from llc.library.data import Data, Examples
from llc.library.engines import ENGINES
from llc.library.losses import Loss, Objective
from llc.library.network import ALIKE, Network, alike, tensors
from llc.library.stacked import LibraryLoss
from llc.library.words import first_line
from llc.params import Layout, repeat

LOOKED_AT = 4  # examples
TRIALS = 2  # timed gradients of each engine, after one that warms it up


def objective_of(network: Network, data: Data, loss: Loss) -> Objective:
    """The loss, having been found to give one number an example (or token), or their mean.

    Raises: ValueError, with the reason, where model or loss fail, are random, mix examples, are not
        finite or not differentiable at w*.
    """
    few = next(data.parts(min(LOOKED_AT, data.number)))
    outputs = _outputs(network, few.inputs)
    values = _values(loss, outputs, few.targets)
    objective = Objective(loss, mean=values.dim() == 0)
    if values.dim() and len(values) != few.number:
        raise ValueError(
            f"loss: returned {tuple(values.shape)} for {few.number} examples: must be one value an "
            "example (B,), one a token (B, T), or their mean"
        )
    again = list(tensors(_outputs(network, few.inputs)))
    if not all(map(alike, tensors(outputs), again)):
        raise ValueError(
            "model: gives other outputs on the same inputs in evaluation mode: λ̂ "
            "needs a function of the weights; seed or switch off what is random"
        )
    if objective.mean:
        _check_mean(network, few, loss, values)
    else:
        _check_apart(network, few, objective)
    _check_gradients(network, few, objective)
    return objective


def check_at_centre(loss: LibraryLoss) -> float:
    """L_n(w*); raises ValueError where it cannot be had, or is not finite, naming an example."""
    try:
        losses = loss.reference(loss.centre)[0]
    except Exception as error:
        reason = first_line(error)
        raise ValueError(f"data: model or loss fail on a batch of it: {reason}") from error
    bad = (~losses.isfinite()).nonzero().flatten()
    if len(bad):
        where = "" if loss.objective.mean else f" at example {int(bad[0])} ({len(bad)} in all)"
        raise ValueError(
            f"loss: is {float(losses[bad[0]])} at w*{where}: λ̂ needs a finite loss there; look at "
            "the data and the weights"
        )
    return float(losses.double().mean())


def fastest_engine(loss: LibraryLoss, chains: int, batch_size: int) -> tuple[str, str]:
    """The engine whose gradient of a stack of `chains` takes less time, and a word on why."""
    seconds: dict[str, float] = {}
    for name in ENGINES:
        try:
            seconds[name] = time_gradient(loss.run_by(name), chains, batch_size)
        except Exception as error:  # whatever a module does that `vmap` cannot follow
            if name == "plain":
                raise
            return "plain", f"vmap fails on this model: {first_line(error)}"
    best = min(seconds, key=lambda name: seconds[name])
    words = ", ".join(f"{name} {1e3 * value:.3g} ms" for name, value in seconds.items())
    return best, f"a step of {chains} chains: {words}"


def check_engine(loss: LibraryLoss, engine: str, chains: int, batch_size: int) -> None:
    """Raise ValueError where an engine cannot run the model."""
    try:
        time_gradient(loss.run_by(engine), chains, batch_size)
    except Exception as error:
        reason = first_line(error)
        raise ValueError(
            f"engine={engine!r}: fails on this model ({reason}): use engine='plain'"
        ) from error


def compiled_where_it_pays(
    loss: LibraryLoss, setting: bool | str, chains: int, batch_size: int, steps: int
) -> tuple[LibraryLoss, Compiling, str]:
    """The loss with its gradients compiled or as they are, what compiling took, a word on why.

    setting: True compiles, and 'auto' tries where `steps` gradients of `chains` chains take long,
    and keeps what is faster. What cannot be compiled runs as it is.
    """
    compiling = Compiling()
    if not setting:
        return loss, compiling, ""
    before = time_gradient(loss, chains, batch_size)
    if setting == "auto" and steps * before < WORTH:
        took = f"{steps:,} gradients take about {steps * before:.2g} s as it is"
        return loss, compiling, f"not compiled: {took}"
    other = loss.run_by(loss.engine, compiling)
    after = time_gradient(other, chains, batch_size)
    if compiling.trouble:
        return loss, compiling, f"not compiled: {compiling.trouble}"
    words = f"{1e3 * after:.3g} ms compiled, {1e3 * before:.3g} ms as it is"
    if setting == "auto" and after > before:
        return loss, compiling, f"not compiled: {words}"
    return other, compiling, f"compiled: {words}"


def time_gradient(own: LibraryLoss, chains: int, batch_size: int) -> float:
    """Seconds for a gradient of `chains` chains at w*, on the same batch."""
    layout = Layout(own.shapes, chains)
    weights = layout.pack(repeat(own.centre, chains))
    out = layout.stack(torch.zeros_like(weights.flat))
    indices = torch.arange(batch_size, dtype=torch.int32, device=weights.flat.device)
    block = own.block(weights.leaves, own.reference(own.centre), 1)
    block.load(1, indices.expand(1, chains, -1) if batch_size < own.num_examples else None)
    seconds = []
    for _ in range(1 + TRIALS):
        started = perf_counter()
        block.add_gradient(0, weights.leaves, out.leaves, 1.0)
        float(out.flat[0])  # waits for the device
        seconds.append(perf_counter() - started)
    return min(seconds[1:])


def _outputs(network: Network, inputs: Any) -> Any:
    try:
        with torch.no_grad():
            return network.call(inputs)
    except Exception as error:
        reason = first_line(error)
        raise ValueError(f"model: fails on a batch of the data: {reason}") from error


def _values(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    try:
        values = loss(outputs, targets)
    except Exception as error:
        shapes = ", ".join(str(tuple(one.shape)) for one in tensors(outputs))
        raise ValueError(
            f"loss: fails on outputs {shapes or type(outputs).__name__} of the model: "
            f"{first_line(error)}"
        ) from error
    if not isinstance(values, Tensor) or not values.is_floating_point():
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"loss: returned {kind}: must be a tensor of real numbers, one an example")
    if not bool(values.isfinite().all()):
        raise ValueError(
            "loss: is not finite at w* on the first examples: look at the data and the weights"
        )
    return values


def _check_mean(network: Network, few: Examples, loss: Loss, value: Tensor) -> None:
    """A mean stays when every example comes twice, and a sum doubles."""
    twice = few.map(lambda t: torch.cat([t, t]))
    doubled = _values(loss, _outputs(network, twice.inputs), twice.targets)
    if abs(float(value)) > 1e-12 and abs(float(doubled / value) - 2) < ALIKE:
        raise ValueError(
            "loss: is a sum over the batch: return one value an example (reduction='none'), or "
            "their mean"
        )


def _check_apart(network: Network, few: Examples, objective: Objective) -> None:
    """An example's loss does not depend on the others in the batch.

    With another's target, since its own may be met but for rounding.
    """
    few = few._replace(targets=tree_map(lambda t: t.roll(1, 0), few.targets))

    def losses(batch: Examples) -> Tensor:
        return objective(_outputs(network, batch.inputs), batch.targets, batch.number)

    together = losses(few)
    apart = torch.cat([losses(one) for one in few.parts(-(-few.number // 2))])
    if not alike(together, apart):
        raise ValueError(
            "model: an example's loss depends on the others in its batch (BatchNorm without "
            "running statistics?): give a loss that returns the batch's mean, or change the model"
        )


def _check_gradients(network: Network, few: Examples, objective: Objective) -> None:
    leaves = dict(network.module.named_parameters())
    names = list(network.free)
    with torch.enable_grad():
        loss = objective(network.call(few.inputs), few.targets, few.number).sum()
    if not loss.requires_grad:
        raise ValueError(
            "loss: has no gradient: compute it from the model's outputs without detach(), item() "
            "or no_grad()"
        )
    grads = torch.autograd.grad(loss, [leaves[name] for name in names], allow_unused=True)
    without = [name for name, grad in zip(names, grads, strict=True) if grad is None]
    if without:
        raise ValueError(
            f"model: the loss has no gradient in {', '.join(map(repr, without[:4]))}"
            f"{' …' * (len(without) > 4)}: hold such parameters fixed with requires_grad_(False), "
            "or choose others with params="
        )
    bad = [name for name, g in zip(names, grads, strict=True) if not bool(g.isfinite().all())]
    if bad:
        raise ValueError(f"loss: its gradient in {bad[0]!r} is not finite at w*: there is no step")
