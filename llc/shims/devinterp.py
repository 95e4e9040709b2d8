"""devinterp's `llc` (2.0), by `estimate_llc`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from llc.config import AtLeast, Count, NonNegative, Positive, Seed, parse
from llc.library import estimate_llc
from llc.library.arrays import words
from llc.library.data import has_indices
from llc.library.selection import select_free
from llc.library.tokens import has_tokens
from llc.shims.names import errors_in_terms_of

LossOfTokens = Callable[[nn.Module, Tensor], Tensor]

RMSPROP = "give estimate_llc sampler=SamplerConfig(preconditioner='rmsprop')"
ELSEWHERE = {  # arguments of devinterp.slt.llc that change the law or the result: default, remedy
    "noise_level": (1.0, "the posterior's is 1"),
    "llc_weight_decay": (0.0, "put a prior into the loss"),
    "bounding_box_size": (None, "use localization, a prior instead of a wall"),
    "init_noise": (None, "chains cooled from above come with estimate_llc(companions=True)"),
    "sampling_method": ("sgmcmc_sgld", RMSPROP),
    "sampling_method_kwargs": (None, RMSPROP),
    "rmsprop_eps": (None, RMSPROP),
    "rmsprop_alpha": (None, RMSPROP),
    "save_metrics": (False, "estimate_llc reports diagnostics of its own"),
    "output_path": (None, "save the result: .to_netcdf(path)"),
}
UNUSED = {  # accepted: they choose random numbers, or how L(w*) is estimated, which is exact here
    "num_init_loss_batches",
    "shuffle",
    "match_sampling_input_ids_across_chains",
    "batches_per_draw",
    "obs_seed",
}
HERE = {  # arguments of `estimate_llc`, as errors name them to those who call it by `llc`
    "data": "dataset",
    "loss": "loss_fn",
    "num_draws": "num_burnin_steps+num_draws*num_steps_bw_draws",
    "batch_size": "batch_size*gradient_accumulation_steps",
    "params": "param_masks",
    "devices": "device",
}


@dataclass(frozen=True)
class Numbers:
    """Those among the arguments of `llc`: what they must be, and their defaults."""

    lr: Positive = 0.01  # this and nβ have to be given
    n_beta: Positive = 1.0
    num_chains: Count = 4
    num_draws: Count = 200
    batch_size: Count = 32
    num_burnin_steps: Annotated[int, AtLeast(0)] = 0
    num_steps_bw_draws: Count = 1
    gradient_accumulation_steps: Count = 1
    init_seed: Seed = 100
    localization: NonNegative = 0.0


def llc(
    model: nn.Module,
    dataset: Any,
    observables: Mapping[str, Any] | None = None,
    *,
    lr: float,
    n_beta: float,
    param_masks: Mapping[str, Tensor | None] | None = None,
    loss_fn: LossOfTokens | None = None,
    device: str | None = None,
    **others: Any,
) -> xr.Dataset:
    """`devinterp.slt.llc.llc` (2.0): λ̂ over every step of every chain, burn-in included.

    dataset: of sequences of one length, under `input_ids`; other columns are not read. loss_fn:
    (model, input_ids (B, T)) -> (B, T − 1). others: the `Numbers`, and what is `UNUSED`.
    Returns: `llc_mean`, `llc_std`, `llc_per_chain` (chain), `llc_scalar`, `loss_trace`
        (chain, step) and `init_loss`, L over all the data at w*.
    Raises: TypeError for arguments that would change what is sampled, or are not recorded; as
        `llc.estimate_llc`, naming the arguments of this function.
    """
    if observables:
        raise TypeError(
            f"observables={list(observables)}: are not recorded here: give them to "
            "estimate_llc(observables=...)"
        )
    numbers: dict[str, Any] = {"lr": lr, "n_beta": n_beta}
    for name, value in others.items():
        default, remedy = ELSEWHERE.get(name, (value, ""))
        if value != default:
            raise TypeError(f"{name}={value!r}: is not supported: leave it out; {remedy}")
        if name not in ELSEWHERE and name not in UNUSED:
            numbers[name] = value
    own = parse(Numbers, numbers)
    with errors_in_terms_of(HERE):
        estimate = estimate_llc(
            **_arguments(model, _sequences(dataset), loss_fn, param_masks),
            nbeta=own.n_beta,
            epsilon=own.lr,
            gamma=own.localization,
            num_chains=own.num_chains,
            num_draws=own.num_burnin_steps + own.num_draws * own.num_steps_bw_draws,
            burn_in=0,
            batch_size=own.batch_size * own.gradient_accumulation_steps,
            microbatch_size=own.batch_size,
            seed=own.init_seed,
            devices=device,
            companions=False,
        )
    per_chain = np.array(estimate.per_chain)
    return xr.Dataset(
        {
            "llc_mean": per_chain.mean(),
            "llc_std": per_chain.std(),
            "llc_per_chain": (("chain",), per_chain),
            "llc_scalar": per_chain.mean(),
            "loss_trace": (("chain", "step"), estimate.trace.loss.numpy()),
            "init_loss": estimate.init_loss,
        }
    )


def _sequences(dataset: Any) -> Tensor:
    """(n, T) the `input_ids`: of other columns nothing counts, and padding is a token."""
    if not has_indices(dataset):
        raise TypeError(
            f"dataset={words(dataset)}: must be a data set whose items have 'input_ids'"
        )
    items = [dataset[index] for index in range(len(dataset))]
    if not items:
        raise ValueError("dataset: is empty: give at least two sequences")
    other = next((item for item in items if not has_tokens(item)), None)
    if other is not None:
        raise ValueError(f"dataset: an item is {words(other)}: must be a dict with 'input_ids'")
    try:
        rows = [torch.as_tensor(item["input_ids"]) for item in items]
    except (TypeError, ValueError) as error:
        raise ValueError(f"dataset: input_ids must be numbers of tokens: {error}") from None
    shapes = sorted({tuple(row.shape) for row in rows})
    if len(shapes) > 1 or len(shapes[0]) != 1:
        raise ValueError(
            f"dataset: has input_ids of shape {shapes[0]} to {shapes[-1]}: must be sequences of "
            "one length; llc.estimate_llc knows padding"
        )
    return torch.stack(rows)


def _arguments(
    model: nn.Module,
    rows: Tensor,
    loss_fn: LossOfTokens | None,
    param_masks: Mapping[str, Tensor | None] | None,
) -> dict[str, Any]:
    """What `estimate_llc` is to sample, and of which loss."""
    params = None if param_masks is None else _bool(param_masks)
    if loss_fn is None:
        return {"model": model, "data": {"input_ids": rows}, "params": params}
    if params is not None:
        select_free(model, params)  # errors name parameters as the caller knows them
        params = {f"model.{name}": mask for name, mask in params.items()}
    return {
        "model": _WithLoss(model, loss_fn),
        "data": (rows, rows),
        "loss": lambda losses, _: losses,
        "params": params,
    }


def _bool(param_masks: Mapping[str, Any]) -> dict[str, Tensor | None]:
    if not isinstance(param_masks, Mapping):
        raise TypeError(
            f"param_masks={words(param_masks)}: must be a dict from names of parameters to masks, "
            "None for all of a parameter"
        )
    return {
        name: None if mask is None else torch.as_tensor(mask).bool()
        for name, mask in param_masks.items()
    }


class _WithLoss(nn.Module):
    """A model whose output is its loss: what `loss_fn(model, input_ids)` needs."""

    def __init__(self, model: nn.Module, loss_fn: LossOfTokens) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.loss_fn(self.model, input_ids)
