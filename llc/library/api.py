"""λ̂ of any model and data, in one call."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llc.config import SamplerConfig
from llc.library.data import Unpack
from llc.library.estimates import estimates
from llc.library.result import LLCEstimate


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
    checkpoint: str | Path | None = None,
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
    the status needs to be trustworthy. checkpoint: a file that keeps the state, written every
    minute or so; the same call goes on from there to the same result, and deletes it at its end.
    progress: show a bar, on a terminal.
    Returns: an `LLCEstimate`; what goes wrong while sampling is its `status`, never an exception.
    Raises: TypeError, ValueError for arguments that cannot be used, before any sampling: the
        message names argument, value and remedy.
    """
    return estimates(
        [{}],
        model,
        data,
        loss,
        nbeta=nbeta,
        num_chains=num_chains,
        num_draws=num_draws,
        burn_in=burn_in,
        thin=thin,
        batch_size=batch_size,
        microbatch_size=microbatch_size,
        epsilon=epsilon,
        gamma=gamma,
        sampler=sampler,
        seed=seed,
        params=params,
        unpack=unpack,
        observables=observables,
        stream=stream,
        devices=devices,
        chains_per_stack=chains_per_stack,
        dtype=dtype,
        autocast=autocast,
        engine=engine,
        compile=compile,
        companions=companions,
        checkpoint=checkpoint,
        progress=progress,
    )[0]
