"""canonical-interp's `LLCEstimator` and `LLCGridSearch` (0.2), by `estimate_llc`."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from llc.library import LLCEstimate, estimate_llc

Devices = str | torch.device | Sequence[str | torch.device]


class LLCEstimator:
    """`canonical_interp.slt.LLCEstimator` (0.2): chains by draws, and their metrics.

    `estimate` is the `LLCEstimate` behind the last call.
    """

    def __init__(
        self,
        draws: int,
        chains: int,
        burnin_steps: int,
        steps_bw_draws: int = 1,
        grad_accumulation_steps: int = 1,
        verbose: bool = False,
        learning_rate: float = 0.001,
        localization: float = 5.0,
        nbeta: float = 32 / math.log(32),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.draws, self.chains, self.burnin_steps = draws, chains, burnin_steps
        self.steps_bw_draws, self.accumulated = steps_bw_draws, grad_accumulation_steps
        self.learning_rate, self.localization, self.nbeta = learning_rate, localization, nbeta
        self.verbose, self.dtype = verbose, dtype
        self.estimate: LLCEstimate | None = None
        self._metrics: dict[str, Tensor] = {}

    def estimate_llc(
        self,
        model: nn.Module,
        train_dataloader: "DataLoader[Any]",
        criterion_fn: Callable[[Any, Any], Tensor] = functional.cross_entropy,
        chain_batch: int | Literal["all"] = "all",
        devices: Devices = "cpu",
        seed: int | None = None,
        compile: bool | str = True,
        unpack_fn: Callable[[Any], tuple[Any, Any]] | None = None,
        show_progress: bool = True,
        targeted_params: Sequence[str] | None = None,
        current_loss: Tensor | float | None = None,
    ) -> Tensor:
        """λ̂, the mean over chains; `get_metrics` has the rest.

        criterion_fn: (outputs, targets) -> the batch's mean; of `cross_entropy` and `mse_loss` it
        is known what they average, so that L(w*) is taken on each draw's own examples.
        burnin_steps: rounded up to whole draws. seed: None is 0. compile: has no effect.
        current_loss: L(w*), which is computed over all the data where None.
        """
        kept_out = -(-self.burnin_steps // self.steps_bw_draws)
        size = train_dataloader.batch_size
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loss: returns a mean")  # as they always do
            self.estimate = estimate = estimate_llc(
                model,
                train_dataloader,
                _per_example(criterion_fn),
                nbeta=self.nbeta,
                epsilon=self.learning_rate,
                gamma=self.localization,
                num_chains=self.chains,
                num_draws=kept_out + self.draws,
                burn_in=kept_out,
                thin=self.steps_bw_draws,
                batch_size=None if size is None else size * self.accumulated,
                seed=seed or 0,
                params=targeted_params,
                unpack=unpack_fn or _first_two,
                devices=devices,
                chains_per_stack=None if chain_batch == "all" else chain_batch,
                dtype=self.dtype,
                companions=False,
                progress=show_progress,
            )
        losses = estimate.trace.loss[:, kept_out:]
        llcs = torch.tensor(estimate.per_chain)
        if current_loss is not None:
            llcs = self.nbeta * (losses.mean(1) - current_loss)
        self._metrics = {
            "llcs": llcs,
            "llc_mean": llcs.mean(),
            "llc_std": llcs.std(),
            "losses": losses,
            "losses_mean": losses[:, -1].mean(),
            "losses_std": losses[:, -1].std(),
        }
        return self._metrics["llc_mean"]

    def get_metrics(self) -> dict[str, Tensor]:
        """`llcs` (chains,), `llc_mean`, `llc_std`, `losses` (chains, draws), and of the last draw
        `losses_mean`, `losses_std`; empty before the first call."""
        return self._metrics


@dataclass
class GridSearchConfig:
    """`canonical_interp.GridSearchConfig`: numbers, or ranges to be cut into so many points."""

    epsilon: tuple[float, float] | float
    gamma: tuple[float, float] | float
    nbeta: tuple[float, float] | float
    estimates_per_dim: int
    draws: int = 100
    chains: int = 8
    burnin_steps: int = 100
    steps_bw_draws: int = 1
    grad_accumulation_steps: int = 1

    def points(self, values: tuple[float, float] | float) -> list[float]:
        """What a number or a range stands for."""
        if isinstance(values, int | float):
            return [float(values)]
        return [float(value) for value in np.linspace(*values, self.estimates_per_dim)]


class LLCGridSearch:
    """`canonical_interp.LLCGridSearch`: one `LLCEstimator` a point."""

    def __init__(self, cfg: GridSearchConfig) -> None:
        self.cfg = cfg

    def run_grid_search(
        self,
        model: nn.Module,
        train_dataloader: "DataLoader[Any]",
        *arguments: Any,
        preferred_dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> pd.DataFrame:
        """A row a point: `epsilon`, `gamma`, `nbeta`, `llc_mean`, `llc_std`, `loss_mean`,
        `loss_std`. Further arguments are those of `LLCEstimator.estimate_llc`."""
        cfg, rows = self.cfg, []
        for epsilon, gamma, nbeta in product(*map(cfg.points, (cfg.epsilon, cfg.gamma, cfg.nbeta))):
            estimator = LLCEstimator(
                cfg.draws,
                cfg.chains,
                cfg.burnin_steps,
                cfg.steps_bw_draws,
                cfg.grad_accumulation_steps,
                learning_rate=epsilon,
                localization=gamma,
                nbeta=nbeta,
                dtype=preferred_dtype,
            )
            estimator.estimate_llc(model, train_dataloader, *arguments, **options)
            metrics = {name: float(v) for name, v in estimator.get_metrics().items() if not v.dim()}
            rows.append(
                {
                    "epsilon": epsilon,
                    "gamma": gamma,
                    "nbeta": nbeta,
                    "llc_mean": metrics["llc_mean"],
                    "llc_std": metrics["llc_std"],
                    "loss_mean": metrics["losses_mean"],
                    "loss_std": metrics["losses_std"],
                }
            )
        return pd.DataFrame(rows)


def _first_two(batch: Any) -> tuple[Any, Any]:
    return batch[0], batch[1]


def _per_example(criterion: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor] | str:
    """The same loss without its mean over the batch, where that is known."""
    if criterion is functional.cross_entropy:
        return "cross_entropy"
    if criterion is functional.mse_loss:
        return lambda outputs, targets: (outputs - targets).square().flatten(1).mean(1)
    return criterion
