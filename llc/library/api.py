"""λ̂ of any model and data, in one call."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from llc.config import SamplerConfig, parse
from llc.estimate import estimate_stack
from llc.library.attention import without_fast_path
from llc.library.data import AT_ONCE, Source, Unpack, read
from llc.library.losses import Loss, cross_entropy
from llc.library.network import check_hooks, copied, takes
from llc.library.objective import objective_of
from llc.library.observables import Observables, read_observables
from llc.library.places import Places, pick_devices, stack_size
from llc.library.precision import check_autocast, home_and_precision
from llc.library.probe import (
    check_at_centre,
    check_engine,
    check_float64,
    check_half,
    compiled_where_it_pays,
    fastest_engine,
)
from llc.library.result import LLCEstimate, result_of
from llc.library.settings import Settings, default_draws, sampler_for, uses_float64
from llc.library.stacked import LibraryLoss
from llc.library.streaming import streamed
from llc.library.tokens import next_token_loss, token_losses
from llc.params import count

MEAN_NOTE = "mean-reduced loss: baseline not shared"


@without_fast_path()
def estimate_llc(
    model: nn.Module,
    data: Any,
    loss: str | Callable[[Any, Any], Tensor] = "cross_entropy",
    *,
    nbeta: float | None = None,
    num_chains: int = 4,
    num_draws: int | None = None,
    burn_in: int | None = None,
    thin: int = 1,
    batch_size: int | None = None,
    microbatch_size: int | None = None,
    epsilon: float | str = "auto",
    gamma: float = 10.0,
    sampler: str | SamplerConfig = "sgld",
    seed: int = 0,
    params: Any = None,
    unpack: Unpack | None = None,
    observables: Mapping[str, Any] | None = None,
    stream: bool = False,
    devices: str | torch.device | Sequence[str | torch.device] | None = None,
    chains_per_stack: int | None = None,
    dtype: torch.dtype | None = None,
    autocast: torch.dtype | None = None,
    engine: str = "auto",
    compile: bool | str = False,
    companions: bool = True,
    progress: bool = True,
) -> LLCEstimate:
    """λ̂(w*) = nβ (E[L(w)] − L(w*)) of `model` at its weights w*, on `data`.

    w is drawn from p(w) ∝ exp(−nβ L(w) − (γ/2)‖w − w*‖²) (Lau et al. 2023), where L is the mean of
    `loss` over the n examples. The model is copied and never modified; the copy runs in evaluation
    mode (dropout off, BatchNorm at its running statistics), its buffers and parameters without
    requires_grad stay as they are, and it has no hooks.

    model: any module. data: a pair (inputs, targets) of tensors, a Dataset, a DataLoader (its data
    set is read once, in order unless it has a sampler of its own), or anything whose items have
    `input_ids`; `unpack(batch)` makes (inputs, targets) of other batches. Inputs that are a tuple
    or a dict are the model's arguments.
    loss: (outputs, targets) -> one value an example (B,), or one a token (B, T), which count by
    their mean; 'cross_entropy' is that of class labels, and with `input_ids` of the next token,
    the mean over all tokens that are not padding. A scalar is taken for the batch's mean; then
    L(w*) is not taken on each draw's own examples, and λ̂ is noisier.
    nbeta: nβ, n/log n where None. num_chains, num_draws: chains, and recorded draws of each, every
    `thin`-th step (None: 2000, of sghmc and sgnht 5000, fewer where a draw costs more); the first
    `burn_in` of the draws (None: half) do not count.
    batch_size: examples a step; all of them: n. microbatch_size: examples that go through the
    model at once, all of a batch where None: a step's gradient is then summed over its parts, which
    bounds activations and changes nothing but rounding.
    epsilon: ε of Δw = −(ε/2)∇U + √ε ξ, twice a factor on the gradient; 'auto' finds it in a
    tenth of the run (`llc.calibrate`). gamma: γ.
    sampler: a name (sgld, sgld_cv, sghmc, sgnht; on all data a step mala, hmc, nuts, mclmc,
    mamclmc) or an `llc.SamplerConfig` with its keys; 'auto': hmc for at most 2000 examples and 100
    parameters, where ε and batch_size are not given, and else sghmc (docs/samplers.md measured
    them; nothing is best everywhere). seed: fixes everything but rounding.
    params: which parameters to sample, the others staying exactly where they are: names, glob
    patterns, submodules, or a dict from them to masks or indices. unpack: see `data`.
    observables: by name, data sets of the same structure whose losses, example by example (token by
    token), are recorded at every draw: see `LLCEstimate.observables`.
    stream: fetch examples by index when a step needs them instead of holding them all in memory;
    the same chains to rounding. For data sets with indices.
    devices: where chains run, the model's device by default; chains are dealt out to several.
    chains_per_stack: at most so many at once on a device, which bounds memory; results agree to
    rounding whatever it is. dtype: float32 or float64, the model's own by default.
    autocast: torch.bfloat16 or torch.float16, in which the model's forward and backward passes run
    then, where PyTorch deems it safe; the loss, the parameters and the steps stay in float32.
    engine: 'vmap' runs the chains of a stack at once, 'plain' one after another; 'auto' measures.
    compile: True has torch.compile compile the engine's gradients; 'auto' tries it for runs of more
    than a minute, measures and keeps what is faster. What it cannot compile runs as it is, and the
    estimate says why.
    companions: also approach equilibrium from above (with four chains a third more steps), which
    the status needs to be trustworthy. progress: show a bar, on a terminal.
    Returns: an `LLCEstimate`; what goes wrong while sampling is its `status`, never an exception.
    Raises: TypeError, ValueError for arguments that cannot be used, before any sampling: the
        message names argument, value and remedy.
    """
    first = "sghmc" if sampler == "auto" else sampler
    settings = parse(
        Settings,
        {
            "nbeta": nbeta,
            "num_chains": num_chains,
            "num_draws": default_draws(first) if num_draws is None else num_draws,
            "burn_in": burn_in,
            "thin": thin,
            "batch_size": batch_size,
            "microbatch_size": microbatch_size,
            "epsilon": epsilon,
            "gamma": gamma,
            "seed": seed,
            "chains_per_stack": chains_per_stack,
            "engine": engine,
            "compile": compile,
        },
    )
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
    size = settings.batch_size_for(source.examples.number, source.batch_size)
    why_sampler = ""
    if sampler == "auto":
        free = count(network.shapes)
        sampler, why_sampler = sampler_for(source.examples.number, free, settings, stream)
        if num_draws is None:
            settings = replace(settings, num_draws=default_draws(sampler))
            settings.check()
    sgld, sampler_config = settings.configs(sampler, source.examples.number, size)
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
    together = stack_size(settings.num_chains, len(places), settings.chains_per_stack)
    chosen, why = settings.engine, ""
    if chosen == "auto":
        chosen, why = fastest_engine(bound, together, size)
    else:
        check_engine(bound, chosen, together, size)
    bound = bound.run_by(chosen)
    if autocast is not None:
        check_half(bound, together, size)
    if uses_float64(sampler_config, sgld, bound.num_examples, count(bound.shapes)):
        check_float64(bound, sampler_config.name)
    steps = sgld.num_steps * -(-settings.num_chains // together)
    bound, compiling, words = compiled_where_it_pays(bound, settings.compile, together, size, steps)
    notes = (MEAN_NOTE,) * objective.mean + (words,) * bool(compiling.trouble)
    stacks = Places(bound, places, settings.chains_per_stack)
    observed = None
    if sets:
        observed = Observables(bound, sets, _loss_of_each(loss, source, objective.mean), places)
    if objective.mean:
        warnings.warn(
            "loss: returns a mean over the batch, so that L(w*) is not taken on each draw's own "
            "examples and λ̂ is noisier: return one value an example (reduction='none')",
            stacklevel=3,  # of the caller, outside of the decorator
        )
    estimate = estimate_stack(
        bound,
        bound.centre,
        nbeta=settings.nbeta_for(bound.num_examples),
        sgld_config=sgld,
        sampler_config=sampler_config,
        seeds=[settings.seed],
        companions=companions,
        progress=progress,
        stacks=stacks,
        observe=observed,
    )[0]
    return result_of(
        estimate,
        num_examples=bound.num_examples,
        num_free=count(bound.shapes),
        num_parameters=sum(leaf.numel() for leaf in network.module.parameters()),
        sampler=sampler_config.name,
        gamma=settings.gamma,
        seed=settings.seed,
        engine=chosen,
        engine_reason="; ".join(filter(None, (why, words))),
        compile_seconds=compiling.seconds,
        sampler_reason=why_sampler,
        notes=notes,
        observed_shapes=observed.shapes if observed else {},
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
