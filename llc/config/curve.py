"""The configuration of `expt_llc_curve.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from llc.config.rules import Count, NonNegative, NumbersAsText, OneOf, Positive, Within
from llc.config.sampler import Sampled, SamplerConfig
from llc.config.shared import (
    Device,
    Seed,
    SGLDConfig,
    Tempered,
    TrainingConfig,
    check_batch_size,
    check_device,
    check_logging_period,
)

NUM_TRAINING_DATA = {"digits": 1500, "cifar10": 50_000}

SAMPLING = SGLDConfig(epsilon=5e-6, gamma=1.0, num_steps=1000, num_chains=1, batch_size=1024)


@dataclass(frozen=True)
class ModelDataConfig:
    """What is trained on what."""

    model_name: Annotated[str, OneOf("resnet18", "mlp")] = "resnet18"
    data_name: Annotated[str, OneOf("cifar10", "digits")] = "cifar10"
    label_noise_level: Annotated[float, Within(0, 1)] | None = None
    # Channels of the first stage (resnet18), or units of each of two hidden layers (mlp).
    layer_width_factor: Count = 64
    data_dir: str = "data"
    download: bool = False


@dataclass(frozen=True)
class ClassifierTrainingConfig(TrainingConfig):
    """Training, with a penalty l2·Σ‖p‖² on the loss."""

    learning_rate: Positive = 1e-3
    momentum: Annotated[float, Within(0, 1, closed="left")] | None = None
    batch_size: Count = 128
    num_steps: Count = 20_000
    l2_regularization: NonNegative | None = None

    @property
    def l2(self) -> float:
        """The factor of the penalty."""
        return self.l2_regularization or 0.0


@dataclass(frozen=True)
class CurveConfig(Tempered, Sampled):
    """Every key of `expt_llc_curve.py`: λ̂ along the training of an image classifier."""

    expt_name: Annotated[str | None, NumbersAsText()] = None
    sgld_config: SGLDConfig = SAMPLING
    sampler_config: SamplerConfig = SamplerConfig()
    loss_trace_minibatch: bool = True
    model_data_config: ModelDataConfig = ModelDataConfig()
    training_config: ClassifierTrainingConfig = ClassifierTrainingConfig()
    force_realisable: bool = False
    itemp: Positive | None = None
    seed: Seed = 42
    logging_period: Count = 200
    verbose: bool = False
    do_plot: bool = False
    device: Device = "auto"
    dtype: Annotated[str, OneOf("float32", "float64", "bfloat16")] = "float32"

    @property
    def num_training_data(self) -> int:
        """n."""
        return NUM_TRAINING_DATA[self.model_data_config.data_name]

    def check(self, prefix: str = "") -> None:
        """Raise ConfigError for values that cannot go together, or not on this machine."""
        self.check_sampler(prefix, linear=False)
        size = self.training_config.batch_size
        check_batch_size(size, self.num_training_data, f"{prefix}training_config.")
        check_logging_period(self.logging_period, self.training_config.num_steps, prefix)
        check_device(self.device, prefix)
