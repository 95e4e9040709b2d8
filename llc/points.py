"""λ̂ at several points (ε, γ, nβ) of one parameter, by SGLD, all on one chain axis."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llc.checkpoints import Keeper
from llc.companions import CHECK_PERIOD, hottest
from llc.config import SamplerConfig, SGLDConfig
from llc.diagnostics import Estimate
from llc.models.base import StackedLoss
from llc.params import Params
from llc.posterior import LocalPosterior, Points
from llc.sampled import check_run, sampled
from llc.samplers.sgld_points import sgld_points
from llc.sampling import ONE_STACK, Build, Stacks


class Point(NamedTuple):
    """What a posterior is sampled with."""

    epsilon: float
    gamma: float
    nbeta: float


def estimate_points(
    loss: StackedLoss,
    centre: Params,
    points: Sequence[Point],
    *,
    sgld_config: SGLDConfig,
    seed: int = 0,
    companions: bool = True,
    progress: bool = False,
    keeper: Keeper | None = None,
    stacks: Stacks = ONE_STACK,
    check_period: int = CHECK_PERIOD,
) -> list[Estimate]:
    """`estimate_one` by SGLD at w* = `centre`, leaves (*shape), for each of P points.

    Each equals the one made alone with the same seed, to rounding; costs are its share of what all
    of them took. sgld_config: lengths, chains and batches; its ε and γ are not read. keeper: as
    there. A point whose chains have all diverged runs on, since the others do.
    Raises: ValueError for no point, a centre that is not finite, nβ ≤ 0, or a batch larger than the
        data.
    """
    if not points:
        raise ValueError("points: is empty: give one or several")
    centres = {name: leaf.unsqueeze(0) for name, leaf in centre.items()}
    for point in points:
        check_run(loss, centres, point.nbeta, sgld_config)
    configs = [replace(sgld_config, epsilon=one.epsilon, gamma=one.gamma) for one in points]
    posterior = LocalPosterior.around(loss, centres, 1.0, 0.0)

    def each(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=posterior.anchor.flat.device)

    columns = [each(values) for values in zip(*points, strict=True)]

    def recipe(*, check_period: int | None, **_: Any) -> Build:
        return partial(sgld_points, check_period=check_period)  # heat goes with the points

    estimates = sampled(
        posterior.at(Points(*columns)),
        recipe,
        sgld_config,
        [seed] * len(points),
        hot=each([hottest(config, SamplerConfig()) for config in configs]),
        nbeta=[point.nbeta for point in points],
        epsilon=[point.epsilon for point in points],
        companions=companions,
        progress=progress,
        keeper=keeper or Keeper(),
        stacks=stacks,
        check_period=check_period,
    )
    return [_share(estimate, len(points)) for estimate in estimates]


def _share(estimate: Estimate, points: int) -> Estimate:
    """The estimate with its share of the costs."""
    trace = estimate.trace
    return replace(
        estimate,
        gradients=estimate.gradients / points,
        companion_seconds=estimate.companion_seconds / points,
        trace=trace._replace(
            chain_steps=trace.chain_steps // points,
            gradients=trace.gradients / points,
            seconds=trace.seconds / points,
        ),
    )
