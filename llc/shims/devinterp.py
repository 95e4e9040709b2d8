"""devinterp's `llc` (2.0), by `estimate_llc`."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from llc.library import estimate_llc

LossOfTokens = Callable[[nn.Module, Tensor], Tensor]

ELSEWHERE = {  # arguments of devinterp.slt.llc that change the law or the result: default, remedy
    "noise_level": (1.0, "the posterior's is 1"),
    "llc_weight_decay": (0.0, "put a prior into the loss"),
    "bounding_box_size": (None, "use localization, a prior instead of a wall"),
    "init_noise": (None, "chains cooled from above come with estimate_llc(companions=True)"),
    "sampling_method": ("sgmcmc_sgld", "give estimate_llc a sampler="),
    "sampling_method_kwargs": (None, "give estimate_llc a sampler="),
    "rmsprop_eps": (None, "give estimate_llc a sampler="),
    "rmsprop_alpha": (None, "give estimate_llc a sampler="),
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


class _WithLoss(nn.Module):
    """A model whose output is its loss: what `loss_fn(model, input_ids)` needs."""

    def __init__(self, model: nn.Module, loss_fn: LossOfTokens) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.loss_fn(self.model, input_ids)


def llc(
    model: nn.Module,
    dataset: Any,
    observables: Mapping[str, Any] | None = None,
    *,
    lr: float,
    n_beta: float,
    param_masks: Mapping[str, Tensor | None] | None = None,
    loss_fn: LossOfTokens | None = None,
    num_chains: int = 4,
    num_draws: int = 200,
    batch_size: int = 32,
    num_burnin_steps: int = 0,
    num_steps_bw_draws: int = 1,
    gradient_accumulation_steps: int = 1,
    init_seed: int = 100,
    localization: float = 0.0,
    device: str | None = None,
    **others: Any,
) -> xr.Dataset:
    """`devinterp.slt.llc.llc` (2.0): λ̂ over every step of every chain, burn-in included.

    dataset: of sequences of one length, under `input_ids`. loss_fn: (model, input_ids (B, T)) ->
    (B, T − 1). Returns: `llc_mean`, `llc_std`, `llc_per_chain` (chain), `llc_scalar`, `loss_trace`
    (chain, step) and `init_loss`, L over all the data at w*.
    Raises: TypeError for arguments that would change what is sampled; as `estimate_llc` does.
    """
    if observables:
        raise TypeError("observables: give them to estimate_llc(observables=...)")
    for name, value in others.items():
        if name not in ELSEWHERE and name not in UNUSED:
            raise TypeError(f"{name}: is no argument of llc")
        default, remedy = ELSEWHERE.get(name, (value, ""))
        if value != default:
            raise TypeError(f"{name}={value!r}: is not supported: leave it out; {remedy}")
    masks = {
        key: mask if mask is None else mask.bool() for key, mask in (param_masks or {}).items()
    }
    if loss_fn is None:
        arguments: dict[str, Any] = {"model": model, "data": dataset, "params": masks or None}
    else:
        rows = torch.stack([torch.as_tensor(row["input_ids"]) for row in dataset])
        arguments = {
            "model": _WithLoss(model, loss_fn),
            "data": (rows, rows),
            "loss": lambda losses, _: losses,
            "params": {f"model.{name}": mask for name, mask in masks.items()} or None,
        }
    estimate = estimate_llc(
        **arguments,
        nbeta=n_beta,
        epsilon=lr,
        gamma=localization,
        num_chains=num_chains,
        num_draws=num_burnin_steps + num_draws * num_steps_bw_draws,
        burn_in=0,
        batch_size=batch_size * gradient_accumulation_steps,
        seed=init_seed,
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
