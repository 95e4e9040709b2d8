"""Finds the step size ε of Δw = −(ε/2)∇U + √ε ξ, so that nobody has to guess it.

It is the largest one, but for rounding down to 1, 1.5, 2.2, 3.3, 4.7 or 6.8, where
- the step biases λ̂ by no more than 1 %: (ε/8)·E‖∇U_B‖² of discretisation and minibatch noise
  together, as `llc.diagnostics` derives it; other samplers measure theirs in the same unit;
- the Metropolis probability of a step is 0.93 or more. It is that of all data where a few steps of
  MALA fit into the budget; else that of the steps on their own minibatches, which says whether ε
  suits the curvature, while minibatch noise is the bias's affair. (MALA: 0.574, and no bias.)

Neither is measured at w*: curvature grows as chains spread, and at a singular w* there may be none.
So 1. a few gradients find the steepest direction, at a distance where U rises by about 1, and with
it a small ε. 2. The *climb*: short runs, each from where the last one ended, with the ε that
the last one suggests (bias ∝ ε, acceptance 2Φ(−x) with x ∝ ε^(3/2): Roberts & Rosenthal 1998). A
run that went wrong is forgotten but for its advice. 3. The *checks*: short runs at ε, ε/2 and ε/4
from one and the same place. The largest ε that passes is taken; λ̂ should not depend on it.

All this takes a tenth of the gradients of the run it serves (`llc.config.search`), in as many
chains. A tenth of a run cannot know where the rest of it goes: the estimate's own status, which
looks at the bias again, has the last word.

Along a training every checkpoint has a search of its own: curvature there changes by orders of
magnitude, so that the first checkpoint's ε would make later chains diverge, and no result depends
on which checkpoints share a stack or where a run was stopped. Curves of short chains, which have
not equilibrated, compare checkpoints better with one ε given as a number.
"""

import math
from collections.abc import Mapping
from time import perf_counter
from typing import Any, NamedTuple

from llc.calibrate.looks import Look
from llc.calibrate.search import Search
from llc.calibrate.words import advice
from llc.checkpoints import Keeper
from llc.config import SamplerConfig, SGLDConfig
from llc.config.search import CHECKS, CLIMB, search_plan
from llc.models.base import StackedLoss
from llc.params import Params
from llc.posterior import LocalPosterior
from llc.sampling import ONE_STACK, Stacks

__all__ = ["Calibration", "Look", "calibrate"]

SGLD = SamplerConfig()
FIRST = 0.01  # the first ε times the largest curvature of U
ROUND = (1.0, 1.5, 2.2, 3.3, 4.7, 6.8)


class Calibration(NamedTuple):
    """The ε that was found, and what it was found from."""

    epsilon: float
    looks: tuple[Look, ...]
    advice: tuple[str, ...]  # in words, where γ, β, the batches or the length need thought
    gradients: float  # full-data-equivalent, over all chains: at most a tenth of the run's
    seconds: float  # of this start, where the search was stopped and started again

    def table(self) -> list[dict[str, Any]]:
        """One row a look, for a DataFrame, CSV or JSON."""
        return [look._asdict() for look in self.looks]

    def plain(self) -> dict[str, Any]:
        """Numbers, text and lists, for a keeper."""
        looks = [tuple(look) for look in self.looks]
        return {**self._asdict(), "looks": looks, "advice": list(self.advice)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Calibration":
        """What `plain` was made from."""
        looks = tuple(Look(*look) for look in plain["looks"])
        return cls(**{**plain, "looks": looks, "advice": tuple(plain["advice"])})


def calibrate(
    loss: StackedLoss,
    centre: Params,
    *,
    nbeta: float,
    sgld_config: SGLDConfig,
    sampler_config: SamplerConfig = SGLD,
    seed: int = 0,
    keeper: Keeper | None = None,
    stacks: Stacks = ONE_STACK,
) -> Calibration:
    """Find ε for a run around w* = `centre`, leaves (*shape).

    sgld_config: the run: γ, its length, chains and batches; its ε is not read. sampler_config: what
    samples. seed: names random streams that the run does not use. keeper: ends the search when
    asked to; the same search started again goes on, or ends with the same ε. stacks: where chains
    run, and how many at once.
    Raises: ConfigError for a run too short for a search, ValueError for a sampler that has no ε.
    """
    if not sampler_config.moves_by_epsilon:
        raise ValueError(f"sampler {sampler_config.name!r}: finds its own step size")
    config = sampler_config.applied(sgld_config, loss.num_examples)
    plan = search_plan(sampler_config, config, loss.num_examples)
    centres = {name: leaf.unsqueeze(0) for name, leaf in centre.items()}
    posterior = LocalPosterior.around(loss, centres, nbeta, config.gamma)
    keeper = keeper or Keeper()
    if kept := keeper.kept("found"):
        return Calibration.of(kept)
    started = perf_counter()
    search = Search(posterior, sampler_config, config, plan, seed, keeper, stacks)
    epsilon = FIRST / search.steepness()
    for _ in range(CLIMB):
        epsilon *= search.factor(search.look("climb", epsilon))
    epsilon = rounded_down(epsilon)
    checks = [search.look("check", epsilon / 2**k) for k in range(CHECKS)]
    found = next((look.epsilon for look in checks if search.passes(look)), None)
    found = found or rounded_down(checks[-1].epsilon * min(1.0, search.factor(checks[-1])))
    words = tuple(advice(checks, found, search.share(found), config))
    seconds = perf_counter() - started
    calibration = Calibration(found, tuple(search.looks), words, search.gradients, seconds)
    keeper.keep("found", calibration.plain())
    return calibration


def rounded_down(epsilon: float) -> float:
    """The next number below of 1, 1.5, 2.2, 3.3, 4.7, 6.8, 10, 15, …"""
    power = 10.0 ** math.floor(math.log10(epsilon))
    digits = max((d for d in ROUND if d * power <= epsilon), default=ROUND[0])
    return float(f"{digits * power:.2g}")
