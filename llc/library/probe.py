"""What runs fastest, tried at w* before any chain starts."""

from collections.abc import Callable
from contextlib import suppress
from time import perf_counter

import torch
from torch import Tensor

from llc.library.compiling import WORTH, Compiling
from llc.library.engines import ENGINES
from llc.library.stacked import LibraryLoss
from llc.library.words import first_line
from llc.params import Layout, repeat
from llc.posterior import LocalPosterior
from llc.sampling.threads import is_small, thread_parts

FEW = 4  # examples
TRIALS = 2  # timed gradients of each engine, after one that warms it up


def check_at_centre(loss: LibraryLoss) -> None:
    """Raise ValueError where the loss is not finite at w*, naming an example."""
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


def check_half(loss: LibraryLoss, chains: int, batch_size: int) -> None:
    """Raise ValueError where half precision overflows in the gradient of a batch at w*."""
    run, gradient = _trial(loss, chains, batch_size)
    run()
    if not bool(gradient.isfinite().all()):
        raise ValueError(
            f"autocast={loss.network.autocast}: the gradient summed over {loss.at_once} examples "
            "overflows at w*: use torch.bfloat16, or give a smaller microbatch_size"
        )


def check_float64(loss: LibraryLoss, sampler: str) -> None:
    """Raise ValueError where model or loss cannot be evaluated in float64."""
    few = next(loss.data.parts(min(FEW, loss.num_examples)))
    try:
        loss.on(few).losses({name: leaf.double() for name, leaf in loss.centre.items()})
    except Exception as error:
        remedy = "give epsilon a number" if sampler == "sgld" else "take another sampler"
        raise ValueError(
            f"model: it or the loss fails in float64 ({first_line(error)}), in which "
            f"sampler={sampler!r} takes losses here: let what they compute with follow their "
            f"inputs (weight.to(outputs.dtype) for weight, no .float()), or {remedy}"
        ) from error


def on_fastest_engine(loss: LibraryLoss, chains: int, batch_size: int) -> tuple[LibraryLoss, str]:
    """The loss on the engine whose gradient of a stack of `chains` takes less time, and why."""
    seconds: dict[str, float] = {}
    tried: dict[str, LibraryLoss] = {}  # what is traced for one stays with it
    for name in ENGINES:
        try:
            tried[name], seconds[name] = _try_engine(loss, name, chains, batch_size)
        except Exception as error:  # whatever a module does that `vmap` cannot follow
            if name == "plain":
                raise
            return loss.run_by("plain"), f"vmap fails on this model: {first_line(error)}"
    best = min(seconds, key=lambda name: seconds[name])
    words = ", ".join(f"{name} {1e3 * value:.3g} ms" for name, value in seconds.items())
    return tried[best], f"a step of {chains} chains: {words}"


def on_engine(loss: LibraryLoss, engine: str, chains: int, batch_size: int) -> LibraryLoss:
    """The loss on an engine.

    Raises: ValueError where that cannot run the model.
    """
    try:
        return _try_engine(loss, engine, chains, batch_size)[0]
    except Exception as error:
        reason = first_line(error)
        raise ValueError(
            f"engine={engine!r}: fails on this model ({reason}): use engine='plain'"
        ) from error


def _try_engine(
    loss: LibraryLoss, engine: str, chains: int, batch_size: int
) -> tuple[LibraryLoss, float]:
    """The loss on an engine, and the seconds that a gradient takes."""
    own = loss.run_by(engine)
    laid = own.by_columns() if engine == "vmap" else own
    if laid is not own:
        with suppress(Exception):  # a module may want its inputs row after row, for a view
            return laid, time_gradient(laid, chains, batch_size)
    return own, time_gradient(own, chains, batch_size)


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
    run, gradient = _trial(own, chains, batch_size)
    seconds = []
    for _ in range(1 + TRIALS):
        started = perf_counter()
        run()
        float(gradient[0])  # waits for the device
        seconds.append(perf_counter() - started)
    return min(seconds[1:])


def of_a_thread(loss: LibraryLoss, chains: int, batch_size: int) -> int:
    """How many chains of a stack of so many a thread takes: what is traced for a trial stays."""
    stack = LocalPosterior.around(loss, loss.centre, 1.0, 0.0, chains)
    if is_small(stack, batch_size):
        return chains
    return max(len(range(chains)[part]) for part in thread_parts(stack))


def _trial(own: LibraryLoss, chains: int, batch_size: int) -> tuple[Callable[[], None], Tensor]:
    """A function that adds the gradient of `chains` chains at w* to a flat tensor, and that."""
    layout = Layout(own.shapes, chains)
    weights = layout.pack(repeat(own.centre, chains))
    out = layout.stack(torch.zeros_like(weights.flat))
    indices = torch.arange(batch_size, dtype=torch.int32, device=weights.flat.device)
    block = own.block(weights.leaves, own.reference(own.centre), 1)
    block.load(1, indices.expand(1, chains, -1) if batch_size < own.num_examples else None)
    return lambda: block.add_gradient(0, weights.leaves, out.leaves, 1.0), out.flat
