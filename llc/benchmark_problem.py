"""What one run of the sampler benchmark is of: the problem, and what λ̂ is compared with."""

import math
from typing import NamedTuple

import torch

from llc import problems
from llc.checkpoints import Keeper
from llc.config import BenchmarkConfig, ConfigError, SamplerConfig, SGLDConfig
from llc.devices import pick_device
from llc.estimate import estimate_one
from llc.problems import Problem
from llc.problems.base import Plan

REFERENCE_SEED = 2**32  # and up: beyond what a run's own chains can have


class Target(NamedTuple):
    """What λ̂ is compared with, and where it comes from."""

    value: float | None
    error: float  # its standard error; 0 where it is exact, NaN where it is for n → ∞ or unknown
    kind: str  # exact at this n, reference (a long HMC run), lambda (asymptotic), none
    status: str | None = None  # of the reference run


def planned(config: BenchmarkConfig, dtype: str | None = None) -> Plan:
    """The problem, checked but not made yet; its numbers are the same in either precision.

    Raises: ConfigError for sizes or options that the problem cannot have.
    """
    own = config.problem_config
    try:
        return problems.plan(
            own.name,
            target_params=own.target_params,
            seed=own.seed,
            num_training_data=own.num_training_data,
            dtype=getattr(torch, dtype or config.dtype_value),
            device=pick_device(config.device),
            **own.options,
        )
    except ConfigError as error:
        raise ConfigError(f"problem_config.{error}") from None


def check(config: BenchmarkConfig) -> None:
    """Raise ConfigError for a problem that cannot be made, before any work."""
    planned(config)


def known_target(problem: Problem, config: BenchmarkConfig) -> Target:
    """The exact value at this n, γ and nβ; else the asymptotic λ, where it is known.

    Raises: ConfigError where the exact value is out of reach.
    """
    if problem.exact is not None:
        try:
            value = problem.exact(config.nbeta, config.sgld_config.gamma)
        except ValueError as error:
            raise ConfigError(f"{problem.description}: no exact value: {error}") from None
        return Target(value, 0.0, "exact")
    if problem.known is not None:
        return Target(float(problem.known.value), math.nan, "lambda")
    return Target(None, math.nan, "none")


def reference_target(config: BenchmarkConfig, keeper: Keeper) -> Target:
    """λ̂ of a long float64 HMC run on the same problem: the same for every run of a family."""
    assert config.reference is not None
    problem = planned(config, "float64")()
    long = estimate_one(
        problem.loss,
        problem.centre,
        nbeta=config.nbeta,
        sgld_config=SGLDConfig(
            gamma=config.sgld_config.gamma, num_chains=config.reference.num_chains, batch_size=1
        ),
        sampler_config=SamplerConfig("hmc", num_steps=config.reference.num_steps),
        seed=REFERENCE_SEED + config.problem_config.seed,
        progress=True,
        keeper=keeper,
    )
    value = None if math.isnan(long.mean) else long.mean
    return Target(value, long.standard_error, "reference", long.status)
