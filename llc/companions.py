"""Companion chains, which approach equilibrium from above: what agreement with them is worth.

Chains from w* that have not equilibrated look as if they had, as long as nothing comes from the
other side. Companions start heated, are cooled in stages and then sampled at the posterior's
temperature.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llc.checkpoints import Keeper
from llc.config import SamplerConfig, SGLDConfig
from llc.posterior import LocalPosterior
from llc.sampling import Build, Schedule, Stacks
from llc.streams import Stream
from llc.trace import Trace

CHECK_PERIOD = 20  # steps between closer looks (acceptance, gradient norm), of all chains
COMPANIONS = 2  # chains a centre that approach equilibrium from above
# … through these powers of the highest temperature, each for a share of the run's steps; the last
# stage is the one read.
COOLING = ((1, 1 / 4), (3 / 4, 1 / 16), (1 / 2, 1 / 16), (1 / 4, 1 / 16), (0, 1 / 4))
HEAT = (16.0, 256.0)  # the highest temperature: at least, and at most
REACH = 0.02  # … and between these enough to spread over this share of 1/γ in every direction


def cool(
    posterior: LocalPosterior,
    recipe: Callable[..., Build],
    hot: float | Tensor,
    schedule: Schedule,
    seeds: Sequence[int],
    progress: bool,
    keeper: Keeper,
    stacks: Stacks,
) -> Trace:
    """Companion chains: heated, cooled in stages, then sampled at the posterior's own temperature.

    At temperature H both nβ → nβ/H and ε → Hε: the stability limit εnβ stays, while the chain
    diffuses H times as fast and spreads wider than the posterior in every direction. hot: H at
    first, of all centres, or of each (S,) where the posterior has `points`.
    """
    kept = keeper.kept("cooled") or {"stages": 0, "trace": None}
    trace = Trace(**kept["trace"]) if kept["stages"] else None
    for stage, (power, share) in enumerate(COOLING[kept["stages"] :], start=kept["stages"] + 1):
        temperature, before = hot**power, trace
        warmest = float(torch.as_tensor(temperature).max())
        steps = max(1, round(schedule.num_steps * share))
        trace = stacks.run(
            posterior.heated(temperature),
            COMPANIONS,
            recipe(
                steps=steps,
                temperature=temperature,
                check_period=CHECK_PERIOD if power == 0 else None,
            ),
            replace(
                schedule,
                num_steps=steps,
                distances=False,
                coordinates=0,
                observe=None,
                ends=stage < len(COOLING),
            ),
            [Stream(seed, chain, stage) for seed in seeds for chain in range(COMPANIONS)],
            start=before and before.last,
            label=f"from above, {warmest:.3g}×" if progress else None,
            keeper=keeper,
            name=f"companions {stage}",
        )
        if before is not None:
            trace = trace._replace(
                seconds=trace.seconds + before.seconds, gradients=trace.gradients + before.gradients
            )
        keeper.keep("cooled", {"stages": stage, "trace": trace._asdict()})
    assert trace is not None
    return trace


def hottest(config: SGLDConfig, sampler: SamplerConfig) -> float:
    """H so that the hot stage's free diffusion, ε·H·steps, covers a share of 1/γ.

    A short run says nothing beyond where its chains have been: with little diffusion of their own,
    chains from w* and companions heated only a little would agree on the same plateau. Samplers
    that do not diffuse as ε says get the least heat.
    """
    if not sampler.moves_by_epsilon:
        return HEAT[0]
    own = config.step_size * config.num_steps * COOLING[0][1] * config.gamma
    return min(HEAT[1], max(HEAT[0], REACH / own)) if own > 0 else HEAT[1]
