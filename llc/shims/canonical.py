"""canonical-interp's `LLCEstimator` (0.2), by `estimate_llc`."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from llc.config import AtLeast, Count, NonNegative, Positive, parse
from llc.library import LLCEstimate, estimate_llc
from llc.library.arrays import words
from llc.library.network import HALF
from llc.shims.names import errors_in_terms_of

Devices = str | torch.device | Sequence[str | torch.device]

HERE = {  # arguments of `estimate_llc`, as errors name them to those who call it by this class
    "data": "train_dataloader",
    "loss": "criterion_fn",
    "batch_size": "train_dataloader.batch_size*grad_accumulation_steps",
    "params": "targeted_params",
    "unpack": "unpack_fn",
    "chains_per_stack": "chain_batch",
}


@dataclass(frozen=True)
class _Numbers:
    """Those of `LLCEstimator`: what they must be, and defaults, where it has some."""

    draws: Annotated[int, AtLeast(2)] = 2
    chains: Count = 1
    burnin_steps: Annotated[int, AtLeast(0)] = 0
    steps_bw_draws: Count = 1
    grad_accumulation_steps: Count = 1
    learning_rate: Positive = 0.001
    localization: NonNegative = 5.0
    nbeta: Positive = 32 / math.log(32)


class LLCEstimator:
    """`canonical_interp.slt.LLCEstimator` (0.2): chains by draws, and their metrics.

    dtype: torch.bfloat16 or torch.float16 is autocast's, as theirs is; torch.float64 that of the
    chains, which are in the model's own otherwise.
    `estimate` is the `LLCEstimate` behind the last call, and `original_loss` L(w*).
    Raises: ConfigError for numbers that cannot be used.
    """

    def __init__(
        self,
        draws: int,
        chains: int,
        burnin_steps: int,
        steps_bw_draws: int = _Numbers.steps_bw_draws,
        grad_accumulation_steps: int = _Numbers.grad_accumulation_steps,
        verbose: bool = False,
        learning_rate: float = _Numbers.learning_rate,
        localization: float = _Numbers.localization,
        nbeta: float = _Numbers.nbeta,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.draws, self.chains, self.burnin_steps = draws, chains, burnin_steps
        self.steps_bw_draws = steps_bw_draws
        self.grad_accumulation_steps = grad_accumulation_steps
        self.learning_rate, self.localization, self.nbeta = learning_rate, localization, nbeta
        vars(self).update(vars(parse(_Numbers, vars(self))))
        self.verbose, self.preferred_dtype = verbose, dtype
        self.estimate: LLCEstimate | None = None
        self.original_loss: Tensor | None = None
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
        Raises: as `llc.estimate_llc`, naming the arguments of this method.
        """
        if not isinstance(train_dataloader, DataLoader):
            raise TypeError(
                f"train_dataloader={type(train_dataloader).__name__} object: must be a DataLoader; "
                "llc.estimate_llc takes data of other kinds"
            )
        kept_out = -(-self.burnin_steps // self.steps_bw_draws)
        size = train_dataloader.batch_size
        dtype = self.preferred_dtype
        with warnings.catch_warnings(), errors_in_terms_of(HERE):
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
                batch_size=None if size is None else size * self.grad_accumulation_steps,
                microbatch_size=size,
                seed=0 if seed is None else seed,
                params=targeted_params,
                unpack=unpack_fn or _first_two,
                devices=devices,
                chains_per_stack=None if chain_batch == "all" else chain_batch,
                dtype=None if dtype in (torch.float32, *HALF) else dtype,
                autocast=dtype if dtype in HALF else None,
                companions=False,
                progress=show_progress,
            )
        losses = estimate.trace.loss[:, kept_out:]
        llcs = torch.tensor(estimate.per_chain)
        centre = estimate.init_loss
        if current_loss is not None:
            centre = float(current_loss)
            llcs = self.nbeta * (losses.mean(1) - centre)
        self.original_loss = torch.tensor(centre)
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

    def clear_metrics(self) -> None:
        """Forget what `get_metrics` returns."""
        self._metrics = {}


def _first_two(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError(
            f"unpack_fn=None: a batch is {words(batch)}, which does not begin with inputs and "
            "targets: give unpack_fn=lambda batch: (inputs, targets)"
        )
    return batch[0], batch[1]


def _per_example(criterion: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """The same loss without its mean over the batch, where that is knself."""
    if criterion is functional.cross_entropy:
        return _cross_entropy
    if criterion is functional.mse_loss:
        return partial(functional.mse_loss, reduction="none")
    return criterion


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of labels per token some may be ignored, and how many only the batch's mean knows."""
    labels_of_tokens = targets.dim() > 1 and not targets.is_floating_point()
    reduction = "mean" if labels_of_tokens else "none"
    return functional.cross_entropy(outputs, targets, reduction=reduction)
