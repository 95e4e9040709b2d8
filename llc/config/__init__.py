"""Strict configuration: a plain mapping in, frozen dataclasses out.

A dataclass is the whole description of a script's configuration: its fields are the keys, their
defaults the defaults, their annotations the rules. `parse` checks a mapping against it and says
what is wrong in one line that names key, value and remedy:

    sgld_config.epsilonn: unknown key (did you mean 'epsilon'? known keys: ...)
    sgld_config.epsilon=-1.0: must be a finite number > 0

Rules that concern one key are `typing.Annotated` metadata; rules between keys stand in a method
`check(prefix)`, which `parse` calls last.
"""

from llc.config.benchmark import BenchmarkConfig, ProblemConfig
from llc.config.curve import CurveConfig
from llc.config.dln import DLNConfig
from llc.config.parsing import ConfigError, as_plain, parse
from llc.config.rescaling import RescalingConfig
from llc.config.rules import (
    Above,
    AtLeast,
    Count,
    NonEmpty,
    NonNegative,
    NumbersAsText,
    OneOf,
    Positive,
    Within,
)
from llc.config.saddle import SaddleConfig
from llc.config.sampler import SAMPLERS, SamplerConfig
from llc.config.shared import (
    Device,
    DType,
    Seed,
    SGLDConfig,
    TrainingConfig,
    TrueParamConfig,
    check_batch_size,
    check_device,
)

__all__ = [
    "SAMPLERS",
    "Above",
    "AtLeast",
    "BenchmarkConfig",
    "ConfigError",
    "Count",
    "CurveConfig",
    "DLNConfig",
    "DType",
    "Device",
    "NonEmpty",
    "NonNegative",
    "NumbersAsText",
    "OneOf",
    "Positive",
    "ProblemConfig",
    "RescalingConfig",
    "SGLDConfig",
    "SaddleConfig",
    "SamplerConfig",
    "Seed",
    "TrainingConfig",
    "TrueParamConfig",
    "Within",
    "as_plain",
    "check_batch_size",
    "check_device",
    "parse",
]
