"""What `estimate_llc` is told in numbers, checked before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from llc.config import (
    SAMPLERS,
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
from llc.config.search import search_plan

DEFAULT_BATCH = 256  # examples, where neither the caller nor a DataLoader says


@dataclass(frozen=True)
class Settings:
    """The numbers among the arguments of `estimate_llc`, by their names."""

    nbeta: Positive | None = None
    num_chains: Count = 4
    num_draws: Annotated[int, AtLeast(2)] = 2000
    burn_in: Annotated[int, AtLeast(0)] | None = None
    thin: Count = 1
    batch_size: Count | None = None
    epsilon: Positive | Literal["auto"] = "auto"
    gamma: NonNegative = 10.0
    seed: Seed = 0
    chains_per_stack: Count | None = None
    engine: Annotated[str, OneOf("auto", "vmap", "plain")] = "auto"

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
        given = {"name": sampler} if isinstance(sampler, str) else as_plain(sampler)
        own = {key: value for key, value in given.items() if key not in ("num_steps",)}
        # Half a draw more, so that rounding the share down gives the number again.
        own["burn_in_prop"] = (self.num_burn_in + 0.5) / self.num_draws
        config = parse(SamplerConfig, own, "sampler.")
        config.check_network(self.gamma, linear=False, prefix="sampler.")
        sgld = SGLDConfig(
            epsilon=self.epsilon,
            gamma=self.gamma,
            num_steps=self.num_draws * self.thin,
            num_chains=self.num_chains,
            batch_size=batch_size,
            thin=self.thin,
        )
        try:
            applied = config.applied(sgld, num_examples)
            if config.searches(sgld):
                search_plan(config, applied, num_examples)
        except ConfigError as error:
            raise ConfigError(_in_our_words(str(error), self.num_draws)) from None
        return sgld, config


def _in_our_words(message: str, num_draws: int) -> str:
    """An error about lengths, with the names that they have here."""
    for theirs, ours in (("num_steps=", "num_draws*thin="), ("burn_in_prop", "burn_in/num_draws")):
        message = message.replace(theirs, ours)
    return message


def sampler_names() -> list[str]:
    """The samplers that any model can be given."""
    return [name for name in SAMPLERS if name != "gibbs"]
