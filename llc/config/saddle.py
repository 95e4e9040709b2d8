"""The configuration of `expt_dln_saddle_dynamics.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from llc.config.parsing import ConfigError
from llc.config.rules import AtLeast, Count, NonNegative, NumbersAsText, Positive
from llc.config.sampler import Sampled, SamplerConfig
from llc.config.shared import (
    Device,
    DType,
    Seed,
    SGLDConfig,
    Tempered,
    TrainingConfig,
    check_batch_size,
    check_device,
    check_logging_period,
    count_checkpoints,
)

# All draws count, as in the published curves: a chain of 100 steps from w* tells how much loss it
# meets nearby. It is no sample from equilibrium, which it has not reached after 90 steps either.
SHORT_CHAINS = SGLDConfig(
    epsilon=1e-6, gamma=1.0, num_steps=100, num_chains=1, batch_size=128, burn_in_prop=0.0
)
PLAIN_SGD = TrainingConfig(learning_rate=1e-4, momentum=None, batch_size=128, num_steps=20_000)


@dataclass(frozen=True)
class SaddleConfig(Tempered, Sampled):
    """Every key of `expt_dln_saddle_dynamics.py`: λ̂ along saddle-to-saddle training."""

    expt_name: Annotated[str | None, NumbersAsText()] = None
    in_out_dim: Count = 5
    width: Count = 10
    num_hidden_layers: Count = 4
    initialisation_exponent: NonNegative = 1.5
    num_training_data: Annotated[int, AtLeast(2)] = 10_000
    itemp: Positive | None = None
    sgld_config: SGLDConfig = SHORT_CHAINS
    sampler_config: SamplerConfig = SamplerConfig()
    loss_trace_minibatch: bool = True
    training_config: TrainingConfig = PLAIN_SGD
    seed: Seed = 42
    logging_period: Count = 50
    max_stacked_chains: Count = 256
    verbose: bool = False
    do_plot: bool = False
    device: Device = "auto"
    dtype: DType = "float32"

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of all layers, the input first."""
        return (self.in_out_dim, *[self.width] * self.num_hidden_layers, self.in_out_dim)

    @property
    def initial_deviation(self) -> float:
        """Standard deviation of the initial weights: their *variance* is width^(−exponent)."""
        return math.sqrt(self.width**-self.initialisation_exponent)

    @property
    def num_checkpoints(self) -> int:
        """Steps 0, logging_period, 2·logging_period, … and the last one."""
        return count_checkpoints(self.training_config.num_steps, self.logging_period)

    @property
    def group_size(self) -> int:
        """How many checkpoints are sampled together."""
        return self.max_stacked_chains // self.sgld_config.num_chains

    def check(self, prefix: str = "") -> None:
        """Raise ConfigError for values that cannot go together, or not on this machine."""
        self.check_sampler(prefix, linear=True)
        size = self.training_config.batch_size
        check_batch_size(size, self.num_training_data, f"{prefix}training_config.")
        if not self.group_size:
            raise ConfigError(
                f"{prefix}max_stacked_chains={self.max_stacked_chains}: must hold the "
                f"{self.sgld_config.num_chains} chains of at least one checkpoint: use "
                f"max_stacked_chains={self.sgld_config.num_chains} or more, or fewer num_chains"
            )
        check_logging_period(self.logging_period, self.training_config.num_steps, prefix)
        check_device(self.device, prefix)
