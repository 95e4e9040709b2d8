"""canonical-interp's `LLCGridSearch` (0.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from llc.config import ConfigError
from llc.library.grids import AXES
from llc.shims.canonical import LLCEstimator
from llc.shims.names import errors_in_terms_of


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

    def points(self, name: str) -> list[float]:
        """What the number or range of that name stands for.

        Raises: ConfigError for anything else, or no points.
        """
        value = getattr(self, name)
        if isinstance(value, int | float):
            return [float(value)]
        pair = isinstance(value, tuple | list) and len(value) == 2
        if not pair or not all(isinstance(end, int | float) for end in value):
            raise ConfigError(f"{name}={value!r}: must be a number or a range (lowest, highest)")
        if self.estimates_per_dim < 1:
            raise ConfigError(f"estimates_per_dim={self.estimates_per_dim}: must be 1 or more")
        low, high = value
        return [float(point) for point in np.linspace(low, high, self.estimates_per_dim)]


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
        `loss_std`. Further arguments are those of `LLCEstimator.estimate_llc`.

        Raises: as `LLCEstimator`, for any point before the first one runs, and its `estimate_llc`.
        """
        points = list(product(*map(self.cfg.points, AXES)))
        for point in points:
            self._estimator(point, preferred_dtype)  # refuses what cannot be used
        rows = []
        for point in points:
            estimator = self._estimator(point, preferred_dtype)
            estimator.estimate_llc(model, train_dataloader, *arguments, **options)
            metrics = estimator.get_metrics()
            rows.append(
                {
                    **dict(zip(AXES, point, strict=True)),
                    "llc_mean": float(metrics["llc_mean"]),
                    "llc_std": float(metrics["llc_std"]),
                    "loss_mean": float(metrics["losses_mean"]),
                    "loss_std": float(metrics["losses_std"]),
                }
            )
        return pd.DataFrame(rows)

    def _estimator(self, point: Sequence[float], dtype: torch.dtype) -> LLCEstimator:
        cfg = self.cfg
        epsilon, gamma, nbeta = point
        with errors_in_terms_of({"learning_rate": "epsilon", "localization": "gamma"}):
            return LLCEstimator(
                cfg.draws,
                cfg.chains,
                cfg.burnin_steps,
                cfg.steps_bw_draws,
                cfg.grad_accumulation_steps,
                learning_rate=epsilon,
                localization=gamma,
                nbeta=nbeta,
                dtype=dtype,
            )
