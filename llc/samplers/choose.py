"""The sampler that a configuration names, at any temperature."""

from collections.abc import Callable

from llc.config import SamplerConfig, SGLDConfig
from llc.posterior import LocalPosterior
from llc.samplers.base import Sampler
from llc.samplers.gibbs import gibbs
from llc.samplers.hmc import TARGET, hmc, quarter_period
from llc.samplers.mala import mala
from llc.samplers.sgld import sgld

WARM_UP = 0.3  # share of the steps in which a sampler adapts itself

Build = Callable[[LocalPosterior], Sampler]


def choose(
    sampler: SamplerConfig,
    config: SGLDConfig,
    *,
    steps: int,
    temperature: float = 1.0,
    check_period: int | None = None,
) -> Build:
    """How to build the sampler of `sampler_config` for `steps` steps.

    At a `temperature` H, where nβ is nβ/H, a step size that is given becomes Hε: the stability
    limit εnβ stays.
    """
    epsilon = temperature * config.epsilon
    warm_up = int(WARM_UP * steps)

    def build(posterior: LocalPosterior) -> Sampler:
        if sampler.name == "gibbs":
            return gibbs(posterior)
        if sampler.name == "hmc":
            return hmc(
                posterior,
                trajectory=sampler.trajectory or quarter_period(posterior.gamma),
                warm_up=warm_up,
                target=sampler.target_acceptance or TARGET,
            )
        if sampler.name == "mala":
            return mala(posterior, epsilon)
        return sgld(posterior, epsilon, check_period)

    return build
