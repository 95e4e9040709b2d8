"""The configuration of `expt_rescaling_invariance.py`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from llc.config.parsing import ConfigError
from llc.config.rules import Above, AtLeast, Count, NonEmpty, NumbersAsText, OneOf, Positive, Within
from llc.config.shared import (
    Device,
    Seed,
    SGLDConfig,
    Tempered,
    check_batch_size,
    check_device,
)

MODES = ("preconditioned", "plain", "plain_small_steps")
SGLD = SGLDConfig(epsilon=1e-5, gamma=0.0, num_steps=10_000, num_chains=5, batch_size=500)


@dataclass(frozen=True)
class RescalingConfig(Tempered):
    """Every key of `expt_rescaling_invariance.py`: λ̂ of one function at rescaled parameters.

    The repeats are the chains: `sgld_config.num_chains` at every scale.
    """

    expt_name: Annotated[str | None, NumbersAsText()] = None
    sgld_config: SGLDConfig = SGLD  # its γ is that of mode `preconditioned`
    plain_gamma: Positive = 1.0  # … and this one of the plain modes
    modes: Annotated[tuple[Annotated[str, OneOf(*MODES)], ...], NonEmpty()] = MODES
    widths: Annotated[tuple[Count, ...], NonEmpty()] = (10, 20, 10)
    num_scales: Annotated[int, AtLeast(2), Within(2, 100)] = 17
    # Beyond 10^6 the steps of `plain_small_steps` are rounding beside the weights, in float64 too.
    max_exponent: Annotated[float, Above(0), Within(0, 6)] = 4.0
    # Every copy draws the same noise and minibatches, chain by chain: what differs is the scale.
    same_noise: bool = False
    num_training_data: Annotated[int, AtLeast(2)] = 10_000
    itemp: Positive | None = None
    seed: Seed = 0
    verbose: bool = False
    device: Device = "auto"

    @property
    def scales(self) -> tuple[float, ...]:
        """s: evenly spaced exponents from −`max_exponent` to `max_exponent`."""
        last = self.num_scales - 1
        return tuple(10 ** (self.max_exponent * (2 * k - last) / last) for k in range(last + 1))

    @property
    def model_dim(self) -> int:
        """Number of parameters, biases included."""
        return sum((a + 1) * b for a, b in pairwise(self.widths))

    def check(self, prefix: str = "") -> None:
        """Raise ConfigError for values that cannot go together, or not on this machine."""
        size = self.sgld_config.batch_size
        check_batch_size(size, self.num_training_data, f"{prefix}sgld_config.")
        if self.sgld_config.epsilon == "auto":
            raise ConfigError(
                f"{prefix}sgld_config.epsilon='auto': all copies are to share one step size: "
                "give it a number, such as 1e-5"
            )
        if len(self.widths) < 3:
            raise ConfigError(
                f"{prefix}widths={list(self.widths)}: two layers are rescaled: give three widths "
                "or more, such as '[10, 20, 10]'"
            )
        if len({*self.modes}) < len(self.modes):
            raise ConfigError(f"{prefix}modes={list(self.modes)}: name each mode once")
        check_device(self.device, prefix)
