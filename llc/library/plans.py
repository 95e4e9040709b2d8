"""How points are sampled: settings, and the sampler where that is to be chosen."""

from dataclasses import replace
from typing import NamedTuple

from llc.config import SamplerConfig, SGLDConfig
from llc.library.settings import Settings, default_draws, sampler_for


class Plan(NamedTuple):
    """How one point is sampled."""

    settings: Settings
    sgld: SGLDConfig
    sampler: SamplerConfig
    reason: str  # where the sampler was 'auto'

    @property
    def shares(self) -> bool:
        """Whether chains of other such points may lie in its stacks: SGLD's, whose ε is given."""
        plain = self.sampler.preconditioner in (None, "none")
        return self.sampler.name == "sgld" and plain and self.sgld.epsilon != "auto"


def plan_of(
    settings: Settings,
    sampler: str | SamplerConfig,
    usual_draws: bool,
    number: int,
    size: int,
    free: int,
    stream: bool,
) -> Plan:
    """The plan for n examples in batches of `size` and d = `free` parameters.

    usual_draws: the caller does not say how many; then a sampler that is chosen here does.
    """
    reason = ""
    if sampler == "auto":
        sampler, reason = sampler_for(number, free, settings, stream)
        if usual_draws:
            settings = replace(settings, num_draws=default_draws(sampler))
            settings.check()
    return Plan(settings, *settings.configs(sampler, number, size), reason)
