"""Problems by name."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from llc.config import ConfigError
from llc.problems import analytic, networks
from llc.problems.base import Plan, Problem, Setting, whole

BUILDERS: dict[str, Callable[..., Plan]] = {
    "relu_mlp": partial(networks.perceptron, "relu"),
    "tanh_mlp": partial(networks.perceptron, "tanh"),
    "gelu_mlp": partial(networks.perceptron, "gelu"),
    "dln": networks.deep_linear,
    "reduced_rank": networks.reduced_rank,
    "quadratic": analytic.quadratic,
    "normal_crossing": analytic.normal_crossing,
    "tanh": analytic.tanh,
    "gaussian_mixture": analytic.gaussian_mixture,
}
NAMES = tuple(BUILDERS)


def make(name: str, **setting: Any) -> Problem:
    """The benchmark problem `name`, one of `NAMES`, with the arguments of `plan`.

    Raises: ConfigError for an unknown name or option, or a value that cannot be met.
    """
    return plan(name, **setting)()


def plan(
    name: str,
    *,
    target_params: int | None = None,
    seed: int = 0,
    num_training_data: int = 10_000,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Plan:
    """What `make` calls to get the problem, after everything has been checked and chosen.

    target_params: how many parameters it should have; the nearest possible number is taken, and a
    problem of a fixed size takes no other. seed: names the data, the truth and the training, which
    are drawn in float64 on the CPU whatever `dtype` and `device` are. num_training_data: n.
    options: what else the problem lets one choose, see `options_of`.
    Raises: ConfigError for an unknown name or option, or a value that cannot be met.
    """
    if name not in BUILDERS:
        raise ConfigError(f"problem={name!r}: must be one of {', '.join(NAMES)}")
    known = options_of(name)
    for option, value in options.items():
        if option not in known:
            choice = f"takes {', '.join(known)}" if known else "takes no options"
            raise ConfigError(f"{option}={value!r}: unknown option: {name} {choice}")
    if target_params is not None:
        whole("target_params", target_params, 1)
    count = whole("num_training_data", num_training_data, 1)
    setting = Setting(target_params, count, whole("seed", seed, 0), dtype, torch.device(device))
    return BUILDERS[name](setting, **options)


def options_of(name: str) -> dict[str, Any]:
    """The options of problem `name` and their defaults."""
    parameters = inspect.signature(BUILDERS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
