"""Groups of keys that several experiments share, and the checks that go with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from llc.config.parsing import ConfigError
from llc.config.rules import AtLeast, Count, NonNegative, OneOf, Positive, Within

Device = Annotated[str, OneOf("auto", "cpu", "cuda", pattern=r"cuda:\d{1,3}", shape="'cuda:N'")]
DType = Annotated[str, OneOf("float32", "float64")]
# NumPy's global generator, which Sacred seeds, takes no more than 32 bits.
Seed = Annotated[int, Within(0, 2**32 - 1)]

MAX_CHECKPOINTS = 1500  # a record takes up to 600 bytes, and `info` has room for a million


@dataclass(frozen=True)
class SGLDConfig:
    """How the local posterior is sampled: step size ε, localisation γ, length, chains, batches.

    ε may be 'auto': `llc.calibrate` finds it then, in a tenth of the run.
    """

    epsilon: Positive | Literal["auto"] = 1e-5
    gamma: NonNegative = 10.0
    num_steps: Count = 5000
    num_chains: Count = 4
    batch_size: Count = 100
    burn_in_prop: Annotated[float, Within(0, 1, closed="left")] = 0.9
    thin: Count = 1
    shared_batches: bool = False

    @property
    def step_size(self) -> float:
        """ε, once it is a number.

        Raises: ValueError while it is 'auto'.
        """
        if self.epsilon == "auto":
            raise ValueError("epsilon='auto': not found yet: use llc.calibrate")
        return self.epsilon

    @property
    def num_draws(self) -> int:
        """Draws recorded per chain: every `thin`-th step, the first included."""
        return len(self.draws)

    @property
    def draws(self) -> range:
        """The steps that are recorded."""
        return range(0, self.num_steps, self.thin)

    @property
    def num_burn_in(self) -> int:
        """Recorded draws that the estimate leaves out at the start of each chain."""
        return int(self.burn_in_prop * self.num_draws)

    def check(self, prefix: str = "") -> None:
        """Raise ConfigError unless at least two draws per chain are left after burn-in."""
        kept = self.num_draws - self.num_burn_in
        if kept < 2:
            raise ConfigError(
                f"{prefix}num_steps={self.num_steps}: leaves {kept} draws per chain after "
                f"thin={self.thin} and burn_in_prop={self.burn_in_prop}, at least 2 are needed: "
                "raise num_steps or lower thin or burn_in_prop"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained before λ̂ is estimated at the trained parameter."""

    optim: Annotated[str, OneOf("sgd", "adam")] = "sgd"
    learning_rate: Positive = 0.01
    momentum: Annotated[float, Within(0, 1, closed="left")] | None = 0.9
    batch_size: Count = 200
    num_steps: Count = 5000


@dataclass(frozen=True)
class TrueParamConfig:
    """How the true parameter of a deep linear network is drawn."""

    method: Annotated[str, OneOf("random", "zero", "rand_rank", "rand_rank_sv", "aligned_rank")] = (
        "random"
    )
    prop_rank_reduce: Annotated[float, Within(0, 1)] = 0.2
    mean: float = 0.0
    std: Positive = 5.0
    rank: Annotated[int, AtLeast(0)] | None = None

    def check(self, prefix: str = "") -> None:
        """Raise ConfigError unless `rank` is given exactly when `aligned_rank` needs it."""
        if self.method == "aligned_rank" and self.rank is None:
            raise ConfigError(f"{prefix}rank=None: must be given with method='aligned_rank'")
        if self.method != "aligned_rank" and self.rank is not None:
            raise ConfigError(
                f"{prefix}rank={self.rank}: would be ignored with method={self.method!r}: leave it "
                "out or use method='aligned_rank'"
            )


class HasTemperature(Protocol):
    """What β and nβ depend on."""

    @property
    def num_training_data(self) -> int:
        """n."""

    @property
    def itemp(self) -> float | None:
        """β, where it is given."""

    @property
    def itemp_value(self) -> float:
        """β."""


class Tempered:
    """β and nβ of a configuration with `itemp` and `num_training_data`."""

    @property
    def itemp_value(self: HasTemperature) -> float:
        """Inverse temperature β: as given, else 1/log n."""
        return 1 / math.log(self.num_training_data) if self.itemp is None else self.itemp

    @property
    def nbeta(self: HasTemperature) -> float:
        """n·β, the one scale that sampler and estimator share."""
        return self.num_training_data * self.itemp_value


def check_batch_size(batch_size: int, num_data: int, prefix: str) -> None:
    """Raise ConfigError when a batch would be larger than the data set."""
    if batch_size > num_data:
        raise ConfigError(
            f"{prefix}batch_size={batch_size}: must be at most num_training_data={num_data}"
        )


def count_checkpoints(num_steps: int, logging_period: int) -> int:
    """How many of the steps 0, logging_period, 2·logging_period, … and the last one there are."""
    return 1 + -(-num_steps // logging_period)


def check_logging_period(logging_period: int, num_steps: int, prefix: str) -> None:
    """Raise ConfigError when the record has no room for as many checkpoints."""
    count = count_checkpoints(num_steps, logging_period)
    if count > MAX_CHECKPOINTS:
        fits = -(-num_steps // (MAX_CHECKPOINTS - 1))
        raise ConfigError(
            f"{prefix}logging_period={logging_period}: gives {count} checkpoints and the record "
            f"has room for {MAX_CHECKPOINTS}: use logging_period={fits} or more"
        )


def check_device(device: str, prefix: str = "") -> None:
    """Raise ConfigError when `device` names a CUDA device that this machine does not have."""
    if not device.startswith("cuda"):
        return
    import torch  # late: everything else here works without its second and a half

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not found:
        raise ConfigError(
            f"{prefix}device={device!r}: there is no CUDA device here: use 'auto' or 'cpu'"
        )
    if int(device.partition(":")[2] or 0) >= found:
        raise ConfigError(f"{prefix}device={device!r}: there are only {found} CUDA devices here")
