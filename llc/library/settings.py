"""What `estimate_llc` is told in numbers, checked before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from llc.calibrate.search import LARGE
from llc.config import (
    AtLeast,
    ConfigError,
    Count,
    NonNegative,
    OneOf,
    Positive,
    SamplerConfig,
    Seed,
    SGLDConfig,
    as_plain,
    parse,
)
from llc.config.sampler import WARM_UP
from llc.config.search import search_plan

DEFAULT_BATCH = 256  # examples, where neither the caller nor a DataLoader says
DEFAULT_DRAWS = 2000  # where neither the caller nor the sampler says
# Velocities take time to forget that they started from rest, in each of the looks for ε.
DEFAULT_DRAWS_BY_VELOCITY = 5000
# Up to here HMC was faster to an error of 1 % (geometric mean of docs/samplers.md's problems: 13 s
# against SGHMC's 34 s at n = 500 to 2000), and slower at n = 10,000.
FEW_EXAMPLES, FEW_PARAMETERS = 2000, 100

Reasoned = tuple[str, str]  # a choice, and why


@dataclass(frozen=True)
class Settings:
    """The numbers among the arguments of `estimate_llc`, by their names."""

    nbeta: Positive | None = None
    num_chains: Count = 4
    num_draws: Annotated[int, AtLeast(2)] = DEFAULT_DRAWS
    burn_in: Annotated[int, AtLeast(0)] | None = None
    thin: Count = 1
    batch_size: Count | None = None
    microbatch_size: Count | None = None
    epsilon: Positive | Literal["auto"] = "auto"
    gamma: NonNegative = 10.0
    seed: Seed = 0
    chains_per_stack: Count | None = None
    engine: Annotated[str, OneOf("auto", "vmap", "plain")] = "auto"
    compile: bool | Literal["auto"] = False

    @property
    def num_burn_in(self) -> int:
        """Draws left out at the start of each chain."""
        return self.num_draws // 2 if self.burn_in is None else self.burn_in

    def check(self, prefix: str = "") -> None:
        """Raise ConfigError unless draws are left after burn-in."""
        if self.num_draws - self.num_burn_in < 2:
            raise ConfigError(
                f"{prefix}burn_in={self.burn_in}: leaves {self.num_draws - self.num_burn_in} of "
                f"num_draws={self.num_draws} draws, at least 2 are needed: lower it or raise "
                "num_draws"
            )

    def nbeta_for(self, num_examples: int) -> float:
        """nβ as given, else n/log n."""
        return self.nbeta or num_examples / math.log(num_examples)

    def batch_size_for(self, num_examples: int, of_loader: int | None) -> int:
        """Examples a batch.

        Raises: ConfigError where that is more than there are.
        """
        size = self.batch_size or of_loader or min(DEFAULT_BATCH, num_examples)
        if size > num_examples:
            source = "" if self.batch_size else " (of the DataLoader)"
            raise ConfigError(
                f"batch_size={size}{source}: there are only {num_examples} examples: use "
                f"batch_size={num_examples} or less"
            )
        return size

    def configs(
        self, sampler: str | SamplerConfig, num_examples: int, batch_size: int
    ) -> tuple[SGLDConfig, SamplerConfig]:
        """The same in the terms of `llc.estimate`.

        Raises: ConfigError for a sampler that is unknown, cannot sample any model, or has too few
            draws.
        """
        config = sampler_of(sampler)
        config.check_network(self.gamma, linear=False, prefix="sampler.")
        if self.epsilon != "auto" and not config.moves_by_epsilon:
            raise ConfigError(
                f"epsilon={self.epsilon}: would be ignored with sampler {config.name!r}, which "
                "finds its own step size: leave it out"
            )
        least = math.ceil(WARM_UP * self.num_draws)
        if config.adapts and self.num_burn_in < least:
            raise ConfigError(
                f"burn_in={self.num_burn_in}: {config.name} adapts itself in the first "
                f"{WARM_UP:.0%} of num_draws={self.num_draws} draws: use {least} or more"
            )
        steps = self.num_draws * self.thin
        # Half a draw more, so that rounding the share down gives the number again.
        kept = (self.num_burn_in + 0.5) / self.num_draws
        config = replace(config, num_steps=steps, burn_in_prop=kept)
        sgld = SGLDConfig(
            epsilon=self.epsilon,
            gamma=self.gamma,
            num_steps=steps,
            num_chains=self.num_chains,
            batch_size=batch_size,
            thin=self.thin,
        )
        try:
            applied = config.applied(sgld, num_examples)
            if config.searches(sgld):
                search_plan(config, applied, num_examples)
        except ConfigError as error:
            raise ConfigError(_in_our_words(str(error))) from None
        return sgld, config


def uses_float64(config: SamplerConfig, sgld: SGLDConfig, num_examples: int, num_free: int) -> bool:
    """Whether losses are asked for in float64: by exact samplers, and by SGLD's search for ε."""
    if config.kind.full_data or not config.searches(sgld) or num_free > LARGE:
        return config.kind.full_data
    return search_plan(config, config.applied(sgld, num_examples), num_examples).full_data


def sampler_of(sampler: str | SamplerConfig) -> SamplerConfig:
    """The sampler by name, or as configured.

    Raises: TypeError for anything else; ConfigError for one that is unknown, or has keys that it
        would ignore.
    """
    if not isinstance(sampler, str | SamplerConfig):
        raise TypeError(
            f"sampler={type(sampler).__name__} object: must be a name such as 'sgld', or an "
            "llc.SamplerConfig"
        )
    given = {"name": sampler} if isinstance(sampler, str) else as_plain(sampler)
    for key, ours in (("num_steps", "num_draws"), ("burn_in_prop", "burn_in")):
        if given.get(key) is not None:
            raise ConfigError(f"sampler.{key}={given[key]}: leave it out and give {ours}")
    return parse(SamplerConfig, given, "sampler.")


def sampler_for(num_examples: int, num_free: int, settings: Settings, stream: bool) -> Reasoned:
    """The sampler that docs/samplers.md speaks for, for n examples and d parameters.

    Exact HMC where a gradient of all data costs little: n and d no larger than where it was
    measured to be faster to 1 %. SGHMC everywhere else, also where ε or a smaller batch is given,
    or data are streamed. No sampler was best on every problem.
    """
    given = settings.epsilon != "auto" or (settings.batch_size or num_examples) < num_examples
    if num_examples <= FEW_EXAMPLES and num_free <= FEW_PARAMETERS and not (given or stream):
        return "hmc", f"n={num_examples} ≤ {FEW_EXAMPLES} and d={num_free} ≤ {FEW_PARAMETERS}"
    return (
        "sghmc",
        "cheapest to 1 % most often where gradients of all data cost much, or ε is given",
    )


def default_draws(sampler: str | SamplerConfig) -> int:
    """Draws a chain: fewer where a draw takes many gradients, enough for ε to be found."""
    config = sampler_of(sampler)
    usual = DEFAULT_DRAWS_BY_VELOCITY if config.name in ("sghmc", "sgnht") else DEFAULT_DRAWS
    return config.kind.num_steps or usual


def _in_our_words(message: str) -> str:
    """An error about lengths, with the name that they have here."""
    return message.replace("num_steps=", "num_draws*thin=")
