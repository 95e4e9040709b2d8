"""The configuration of `expt_dln.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from llc.config.parsing import ConfigError
from llc.config.rules import AtLeast, Count, NonEmpty, NumbersAsText, OneOf, Positive
from llc.config.sampler import Sampled, SamplerConfig
from llc.config.shared import (
    Device,
    DType,
    Seed,
    SGLDConfig,
    Tempered,
    TrainingConfig,
    TrueParamConfig,
    check_batch_size,
    check_device,
)

FUNCTIONAL_RANK_BYTES = 4 * 2**30


@dataclass(frozen=True)
class DLNConfig(Tempered, Sampled):
    """Every key of `expt_dln.py`: λ̂ against λ for deep linear networks."""

    expt_name: Annotated[str | None, NumbersAsText()] = None
    sgld_config: SGLDConfig = SGLDConfig()
    sampler_config: SamplerConfig = SamplerConfig()
    loss_trace_minibatch: bool = True
    do_compute_distance: bool = False
    layer_widths: Annotated[tuple[Count, ...], NonEmpty()] = (10, 10)
    input_dim: Count = 10
    input_dist: Annotated[str, OneOf("uniform", "unit_ball")] = "uniform"
    true_param_config: TrueParamConfig = TrueParamConfig()
    num_training_data: Annotated[int, AtLeast(2)] = 10_000
    itemp: Positive | None = None
    num_test_data: Count = 100
    training_config: TrainingConfig = TrainingConfig()
    do_training: bool = False
    do_functional_rank: bool = False
    do_hessian_trace: bool = False
    seed: Seed = 0
    save_true_param: bool = False
    verbose: bool = False
    device: Device = "auto"
    dtype: DType = "float32"

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of all layers, the input first."""
        return (self.input_dim, *self.layer_widths)

    @property
    def model_dim(self) -> int:
        """Number of parameters (there are no biases)."""
        return sum(a * b for a, b in zip(self.widths, self.widths[1:], strict=False))

    def check(self, prefix: str = "") -> None:
        """Raise ConfigError for values that cannot go together, or not on this machine."""
        self.check_sampler(prefix, linear=True)
        if self.do_training:
            size = self.training_config.batch_size
            check_batch_size(size, self.num_training_data, f"{prefix}training_config.")
        rank = self.true_param_config.rank
        if rank is not None and rank > min(self.widths):
            raise ConfigError(
                f"{prefix}true_param_config.rank={rank}: must be at most {min(self.widths)}, the "
                "smallest of input_dim and layer_widths"
            )
        self._check_functional_rank(prefix)
        check_device(self.device, prefix)

    def _check_functional_rank(self, prefix: str) -> None:
        # Three copies: the blocks, the Jacobian they are joined into, and what the SVD works on.
        one = 3 * 8 * self.widths[-1] * self.model_dim
        size = self.num_test_data * one
        if self.do_functional_rank and size > FUNCTIONAL_RANK_BYTES:
            fits = FUNCTIONAL_RANK_BYTES // one
            remedy = f"num_test_data={fits} or less" if fits else "do_functional_rank=False"
            raise ConfigError(
                f"{prefix}num_test_data={self.num_test_data}: the Jacobian for do_functional_rank "
                f"would take {size / 2**30:.1f} GiB (the limit is 4): use {remedy}"
            )
