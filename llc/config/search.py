"""How a search for ε spends its share of the run it serves, in gradients; see `llc.calibrate`.

The unit is one step of one chain of the run. Before every step is taken it is known what the search
costs, so that a run which is too short for one is refused before any work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llc.config.parsing import ConfigError
from llc.config.shared import SGLDConfig

if TYPE_CHECKING:
    from llc.config.sampler import SamplerConfig

SHARE = 0.1  # of the run's gradients, at most
PROBES = 10  # gradients that find a first, small ε
CLIMB, CHECKS = 4, 3  # looks on the way up, and those at ε, ε/2 and ε/4
PERIOD = 4  # steps between closer looks; one costs two more gradients
LEAST_STEPS = 8  # of a look
LEARNING_STEPS = 32  # of one that learns a preconditioner in its first third
FRICTION = 0.1  # α of SGHMC and SGNHT, where none is given
RELAXING = 4  # times 1/α, which velocities need to forget that they started from rest
MALA_STEPS = 4  # of full-data MALA a look, where they are affordable


@dataclass(frozen=True)
class SearchPlan:
    """What each of the `CLIMB + CHECKS` looks does."""

    steps: int  # of the sampler, a multiple of PERIOD
    full_data: bool  # then MALA's acceptance is measured on all data, in MALA_STEPS steps more


def search_plan(
    sampler: SamplerConfig, config: SGLDConfig, num_data: int, prefix: str = ""
) -> SearchPlan:
    """The plan for a run of `config` (as the sampler takes it, see `SamplerConfig.applied`).

    Full-data acceptance is measured, for SGLD on minibatches, where it takes no more than half.
    Raises: ConfigError where the run is too short.
    """
    looks, epoch = CLIMB + CHECKS, num_data / config.batch_size
    least = LEAST_STEPS
    if sampler.name in ("sghmc", "sgnht"):
        least = max(least, PERIOD * math.ceil(RELAXING / (sampler.friction or FRICTION) / PERIOD))
    elif sampler.preconditioner in ("rmsprop", "adam"):
        least = LEARNING_STEPS
    # Before its first step SGLD-CV takes a gradient over all data, and MALA one at the start.
    fixed = PROBES + looks * {"sgld_cv": epoch / 2, "mala": 1.0}.get(sampler.name, 0.0)
    left = SHARE * config.num_steps - fixed
    exact = looks * (MALA_STEPS + 1) * epoch
    plain = sampler.name == "sgld" and sampler.preconditioner in (None, "none")
    full_data = plain and epoch > 1 and exact <= left / 2
    steps = PERIOD * math.floor((left - exact * full_data) / (looks * (PERIOD + 2)))
    if steps < least:
        needed = math.ceil((fixed + looks * least * (PERIOD + 2) / PERIOD) / SHARE)
        raise ConfigError(
            f"{prefix}num_steps={config.num_steps}: too few for epsilon='auto', which is found in "
            f"{SHARE:.0%} of them: use {needed} or more, or give epsilon a number"
        )
    return SearchPlan(steps, full_data)
