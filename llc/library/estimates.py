"""λ̂ of a model at one or several points (ε, γ, nβ): everything else is looked at once."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llc.checkpoints import Keeper
from llc.companions import CHECK_PERIOD
from llc.config import SamplerConfig, parse
from llc.diagnostics import Estimate
from llc.estimate import estimate_stack
from llc.library.attention import without_fast_path
from llc.library.data import AT_ONCE, Source, read
from llc.library.losses import Loss, cross_entropy
from llc.library.network import check_hooks, copied, takes
from llc.library.objective import objective_of
from llc.library.observables import Observables, read_observables
from llc.library.places import Places, fitting, pick_devices, shared_out, stack_size
from llc.library.plans import Plan, plan_of
from llc.library.precision import check_autocast, home_and_precision
from llc.library.probe import (
    check_at_centre,
    check_float64,
    check_half,
    compiled_where_it_pays,
    of_a_thread,
    on_engine,
    on_fastest_engine,
)
from llc.library.result import LLCEstimate, result_of
from llc.library.resuming import call_of, kept_in
from llc.library.settings import Settings, default_draws, uses_float64
from llc.library.stacked import LibraryLoss
from llc.library.streaming import streamed
from llc.library.tokens import next_token_loss, token_losses
from llc.params import count, unstack
from llc.points import Point, estimate_points
from llc.sampling import Observe

ENOUGH_LOOKS = 100  # of a chain, at acceptance and gradient norm: means of that many are known well
MEAN_NOTE = "mean-reduced loss: baseline not shared"


@without_fast_path()
def estimates(
    points: Sequence[Mapping[str, Any]],
    model: nn.Module,
    data: Any,
    loss: Any,
    *,
    num_draws: int | None,
    sampler: str | SamplerConfig,
    params: Any,
    unpack: Any,
    observables: Mapping[str, Any] | None,
    stream: bool,
    devices: Any,
    dtype: torch.dtype | None,
    autocast: torch.dtype | None,
    companions: bool,
    checkpoint: str | Path | None,
    progress: bool,
    **numbers: Any,
) -> list[LLCEstimate]:
    """`estimate_llc` at each of `points`, what they set of `numbers` (ε, γ, nβ) and the rest alike.

    Raises: TypeError, ValueError as `estimate_llc`, before any point is sampled.
    """
    first = "sghmc" if sampler == "auto" else sampler
    numbers["num_draws"] = default_draws(first) if num_draws is None else num_draws
    several = [parse(Settings, numbers | dict(point)) for point in points]
    settings = several[0]
    network = copied(model, params)
    home, precision = home_and_precision(network, dtype)
    places = pick_devices(devices, home)
    check_autocast(autocast, precision, places)
    takes_mask = takes(network.module, "attention_mask")
    source = (
        streamed(data, unpack, takes_mask)
        if stream
        else read(data, unpack, takes_mask, settings.seed)
    )
    sets = read_observables(observables, unpack, takes_mask, settings.seed, source)
    number = source.examples.number
    size = settings.batch_size_for(number, source.batch_size)
    plans = [
        plan_of(own, sampler, num_draws is None, number, size, count(network.shapes), stream)
        for own in several
    ]
    network = network.to(places[0], precision)
    examples = source.examples.to(places[0], precision)
    at_once = min(size, settings.microbatch_size or size)
    # On another copy: a model may keep activations with their graph, which cannot be copied again.
    looked_at = network.to(places[0], precision)
    objective = objective_of(model, looked_at, examples, _loss(loss, source), at_once)
    check_hooks(model, looked_at, next(examples.parts(2)).map(torch.clone).inputs)
    del looked_at
    network.autocast = autocast
    bound = LibraryLoss(network, examples, objective, at_once, "plain")
    check_at_centre(bound)
    room = (settings.chains_per_stack or fitting(bound)) // settings.num_chains * len(places)
    runs = shared_out([plan.shares for plan in plans], room)
    most = max(map(len, runs)) * settings.num_chains
    together = stack_size(most, len(places), settings.chains_per_stack)
    steps = sum(
        plans[run[0]].sgld.num_steps * -(-len(run) * settings.num_chains // together)
        for run in runs
    )
    of_each = _loss_of_each(loss, source, objective.mean) if sets else None
    if objective.mean:
        warnings.warn(
            "loss: returns a mean over the batch, so that L(w*) is not taken on each draw's own "
            "examples and λ̂ is noisier: return one value an example (reduction='none')",
            stacklevel=4,  # of the caller, outside of the decorator
        )
    found: dict[int, Estimate] = {}
    with kept_in(checkpoint, partial(call_of, bound, plans, companions, sets)) as keeper:
        if settings.engine == "auto":
            settings = replace(settings, engine=keeper.kept("engine") or "auto")
        side_by_side = of_a_thread(bound, together, size)
        bound, about = _on_engine(bound, settings, plans, side_by_side, size, steps)
        keeper.keep("engine", about["engine"])
        stacks = Places(bound, places, settings.chains_per_stack)
        observed = of_each and Observables(bound, sets, of_each, places)
        for run in runs:
            own, part = [plans[index] for index in run], keeper.part(str(run[0]))
            them = _sampled(bound, own, companions, progress, part, stacks, observed)
            found |= zip(run, them, strict=True)
    return [
        result_of(
            found[index],
            num_examples=bound.num_examples,
            num_free=count(bound.shapes),
            num_parameters=sum(leaf.numel() for leaf in network.module.parameters()),
            sampler=plan.sampler.name,
            gamma=plan.settings.gamma,
            seed=settings.seed,
            sampler_reason=plan.reason,
            observed_shapes=observed.shapes if observed else {},
            **about,
        )
        for index, plan in enumerate(plans)
    ]


def _on_engine(
    loss: LibraryLoss,
    settings: Settings,
    plans: Sequence[Plan],
    together: int,
    size: int,
    steps: int,
) -> tuple[LibraryLoss, dict[str, Any]]:
    """The loss on the engine asked for or the fastest, and what a result says about it.

    Raises: ValueError where it fails on this engine, in half precision or in the float64 of a plan.
    """
    why = ""
    if settings.engine == "auto":
        loss, why = on_fastest_engine(loss, together, size)
    else:
        loss = on_engine(loss, settings.engine, together, size)
    if loss.network.autocast is not None:
        check_half(loss, together, size)
    for plan in plans:
        if uses_float64(plan.sampler, plan.sgld, loss.num_examples, count(loss.shapes)):
            check_float64(loss, plan.sampler.name)
            break
    loss, compiling, words = compiled_where_it_pays(loss, settings.compile, together, size, steps)
    return loss, {
        "engine": loss.engine,
        "engine_reason": "; ".join(filter(None, (why, words))),
        "compile_seconds": compiling.seconds,
        "notes": (MEAN_NOTE,) * loss.objective.mean + (words,) * bool(compiling.trouble),
    }


def _sampled(
    loss: LibraryLoss,
    plans: Sequence[Plan],
    companions: bool,
    progress: bool,
    keeper: Keeper,
    stacks: Places,
    observe: Observe | None,
) -> list[Estimate]:
    """The estimates of points that run at once."""
    settings, sgld, sampler, _ = plans[0]
    nbetas = [plan.settings.nbeta_for(loss.num_examples) for plan in plans]
    look_every = max(CHECK_PERIOD, sgld.num_steps // ENOUGH_LOOKS)
    if len(plans) == 1:
        return estimate_stack(
            loss,
            loss.centre,
            nbeta=nbetas[0],
            sgld_config=sgld,
            sampler_config=sampler,
            seeds=[settings.seed],
            companions=companions,
            progress=progress,
            keeper=keeper,
            stacks=stacks,
            observe=observe,
            check_period=look_every,
        )
    return estimate_points(
        loss,
        unstack(loss.centre, 0),
        [
            Point(plan.sgld.step_size, plan.sgld.gamma, nbeta)
            for plan, nbeta in zip(plans, nbetas, strict=True)
        ],
        sgld_config=sampler.applied(sgld, loss.num_examples),
        seed=settings.seed,
        companions=companions,
        progress=progress,
        keeper=keeper,
        stacks=stacks,
        check_period=look_every,
    )


def _loss(loss: Any, source: Source) -> Loss:
    if callable(loss):
        return loss  # type: ignore[no-any-return]
    if loss != "cross_entropy":
        raise ValueError(
            f"loss={loss!r}: must be 'cross_entropy' or a function (outputs, targets) -> one value "
            "an example"
        )
    if not source.tokens:
        return cross_entropy
    return next_token_loss(part.targets for part in source.examples.parts(AT_ONCE))


def _loss_of_each(loss: Any, source: Source, mean: bool) -> Loss:
    """The loss of observables, which tells tokens apart.

    Raises: ValueError for one that is a mean over the batch.
    """
    if mean:
        raise ValueError(
            "observables: need a loss of one value an example (reduction='none'), and this one is "
            "a mean over the batch"
        )
    return token_losses if source.tokens and not callable(loss) else _loss(loss, source)
