"""The sampler that a configuration names, at any temperature."""

from collections.abc import Callable
from typing import Any

from llc.config import SamplerConfig, SGLDConfig
from llc.config.sampler import WARM_UP
from llc.posterior import LocalPosterior
from llc.samplers.base import Sampler
from llc.samplers.gibbs import gibbs
from llc.samplers.hmc import hmc, quarter_period
from llc.samplers.mala import mala
from llc.samplers.mamclmc import mamclmc
from llc.samplers.mclmc import mclmc
from llc.samplers.nuts import nuts
from llc.samplers.psgld import psgld, scaled_sgld
from llc.samplers.sghmc import sghmc
from llc.samplers.sgld import sgld
from llc.samplers.sgld_cv import sgld_cv
from llc.samplers.sgnht import sgnht

HEATED = 0.25  # share of the steps that a `heat` takes; the drift is looked at in what follows
LEAST_WARM_UP = 3  # steps: each third of MCLMC's does something else
MOMENTS: dict[str, dict[str, Any]] = {
    "rmsprop": {"decay": 0.99},
    "adam": {"decay": 0.999, "momentum": 0.9},
}

Build = Callable[[LocalPosterior], Sampler]


def choose(
    sampler: SamplerConfig,
    config: SGLDConfig,
    *,
    steps: int,
    temperature: float | None = None,
    check_period: int | None = None,
) -> Build:
    """How to build the sampler of `sampler` for `steps` steps.

    At a `temperature` H, where nβ is nβ/H, a step size that is given becomes Hε: the stability
    limit εnβ stays. None: chains from w*, at the posterior's own temperature; a `heat` of the
    sampler is for these alone.
    """
    epsilon = (temperature or 1) * config.step_size
    warm_up = max(LEAST_WARM_UP, int(WARM_UP * steps))

    def given(**names: str) -> dict[str, Any]:
        """The options that are not left to the sampler: its name for each, and the key here."""
        values = {own: getattr(sampler, key) for own, key in names.items()}
        return {own: value for own, value in values.items() if value is not None}

    accepting = given(target="target_acceptance")
    massive = given(adapt_mass="adapt_mass")
    frictional = given(friction="friction")
    measured = given(length="length")

    def build(posterior: LocalPosterior) -> Sampler:
        match sampler.name:
            case "sgld_cv":
                return sgld_cv(posterior, epsilon, check_period)
            case "sghmc":
                return sghmc(posterior, epsilon, check_period=check_period, **frictional)
            case "sgnht":
                return sgnht(posterior, epsilon, **frictional)
            case "mala":
                return mala(posterior, epsilon)
            case "hmc":
                return hmc(
                    posterior,
                    trajectory=sampler.trajectory or quarter_period(posterior.gamma),
                    warm_up=warm_up,
                    **accepting,
                    **massive,
                )
            case "nuts":
                return nuts(posterior, warm_up=warm_up, **accepting, **massive)
            case "mclmc":
                return mclmc(posterior, warm_up=warm_up, **measured)
            case "mamclmc":
                return mamclmc(posterior, warm_up=warm_up, **accepting, **measured)
            case "gibbs":
                if sampler.heat is None or temperature is not None:
                    return gibbs(posterior)
                return gibbs(posterior, heat=sampler.heat, warm_up=int(HEATED * steps))
        if sampler.preconditioner not in (None, "none"):
            return psgld(
                posterior,
                epsilon,
                warm_up=0 if sampler.correction else warm_up,
                correction=bool(sampler.correction),
                check_period=check_period,
                **MOMENTS[sampler.preconditioner],
            )
        if posterior.metric is not None:
            return scaled_sgld(posterior, epsilon, posterior.metric, check_period=check_period)
        return sgld(posterior, epsilon, check_period)

    return build
