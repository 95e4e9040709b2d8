"""λ̂ at one parameter, or at a stack of them: the one place that wires everything together."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from math import nan
from typing import Any

from llc.calibrate import calibrate
from llc.checkpoints import Keeper
from llc.companions import CHECK_PERIOD, hottest
from llc.config import SamplerConfig, SGLDConfig
from llc.diagnostics import Estimate
from llc.models.base import StackedLoss
from llc.params import Params, select, stack, unstack
from llc.posterior import LocalPosterior
from llc.sampled import check_run, sampled
from llc.samplers.choose import choose
from llc.sampling import ONE_STACK, Observe, Stacks

SGLD = SamplerConfig()


def estimate_one(
    loss: StackedLoss,
    centre: Params,
    *,
    nbeta: float,
    sgld_config: SGLDConfig,
    sampler_config: SamplerConfig = SGLD,
    seed: int = 0,
    full_data_trace: bool = False,
    distances: bool = False,
    coordinates: int = 0,
    companions: bool = True,
    progress: bool = False,
    keeper: Keeper | None = None,
) -> Estimate:
    """λ̂(w*) = nβ (E[L(w)] − L(w*)), w from the local posterior around w*.

    The posterior is p(w) ∝ exp(−nβ L_n(w) − (γ/2)‖w − w*‖²) (Lau et al. 2023) and ε is the step
    size of Δw = −(ε/2)∇U + √ε ξ.

    loss: the network's loss, bound to its data. centre: w*, leaves (*shape), on the loss's device.
    nbeta: n·β, for β = 1/log n: n/log n. sgld_config: ε (a number, or 'auto' to have it found by
    `llc.calibrate`), γ, lengths, chains, batches.
    sampler_config: another sampler than SGLD. seed: names the random streams. full_data_trace:
    take L over all data at every draw instead of the step's minibatch, where steps see minibatches.
    distances: trace ‖w_t − w*‖ too. coordinates: trace so many coordinates of w_t − w* too, evenly
    spread over the parameters. companions: also approach equilibrium from above
    (with four chains a third more steps), which the status needs to be trustworthy. keeper: where
    to leave the chains when stopped, and to take them up again: a `part` of its own for every
    estimate, since what it holds is taken for this one's.
    Returns: an `Estimate`; failure inside sampling is its `status`, never an exception.
    Raises: ValueError for a centre that is not finite, nβ ≤ 0, a batch larger than the data, or a
        run too short for ε to be found.
    """
    return estimate_stack(
        loss,
        stack([centre]),
        nbeta=nbeta,
        sgld_config=sgld_config,
        sampler_config=sampler_config,
        seeds=[seed],
        full_data_trace=full_data_trace,
        distances=distances,
        coordinates=coordinates,
        companions=companions,
        progress=progress,
        keeper=keeper,
    )[0]


def estimate_stack(
    loss: StackedLoss,
    centres: Params,
    *,
    nbeta: float,
    sgld_config: SGLDConfig,
    sampler_config: SamplerConfig = SGLD,
    seeds: Sequence[int],
    metric: Params | None = None,
    full_data_trace: bool = False,
    distances: bool = False,
    coordinates: int = 0,
    companions: bool = True,
    progress: bool = False,
    keeper: Keeper | None = None,
    stacks: Stacks = ONE_STACK,
    observe: Observe | None = None,
    check_period: int = CHECK_PERIOD,
) -> list[Estimate]:
    """`estimate_one` at S centres, leaves (S, *shape), all on one chain axis; one seed a centre.

    What differs between centres in `loss` (teachers, targets) has a leading axis of S entries. The
    estimates equal those made one at a time with the same seeds, to rounding. With ε = 'auto' each
    centre has an ε of its own, and neighbours that agree on it are sampled together. metric: the
    diagonal G of each centre's SGLD, leaves that broadcast to (S, *shape): w moves by
    −(ε/2) G ∇U + √(εG) ξ. stacks: where chains run, and how many at once. observe: traces (C, M)
    numbers of the chains' leaves (C, *shape) at every draw (not of the companions). check_period:
    steps from one closer look (acceptance, gradient norm) to the next; one takes a gradient or two.
    Raises: ValueError for a centre that is not finite, unless there is one seed a centre, or for a
        metric with another sampler or with ε = 'auto'.
    """
    count = len(next(iter(centres.values())))
    if len(seeds) != count:
        raise ValueError(f"seeds: {len(seeds)} for {count} centres; give one seed a centre")
    check_run(loss, centres, nbeta, sgld_config)
    if metric is not None and (sampler_config != SGLD or sgld_config.epsilon == "auto"):
        raise ValueError("metric: is for SGLD alone, with a number for epsilon: leave it out")
    keeper = keeper or Keeper()
    sampling = partial(
        _sampled,
        nbeta=nbeta,
        sampler_config=sampler_config,
        metric=metric,
        full_data_trace=full_data_trace,
        distances=distances,
        coordinates=coordinates,
        companions=companions,
        progress=progress,
        stacks=stacks,
        observe=observe,
        check_period=check_period,
    )
    config = sampler_config.applied(sgld_config, loss.num_examples)
    if not sampler_config.moves_by_epsilon:
        config = replace(config, epsilon=nan)
    if config.epsilon != "auto":
        return sampling(loss, centres, config=config, seeds=seeds, keeper=keeper)
    found = [
        calibrate(
            _part(loss, slice(i, i + 1), count),
            unstack(centres, i),
            nbeta=nbeta,
            sgld_config=config,
            sampler_config=sampler_config,
            seed=seed,
            keeper=keeper.part(f"calibration {i}"),
            stacks=stacks,
        )
        for i, seed in enumerate(seeds)
    ]
    estimates = []
    for epsilon, members in groupby(range(count), key=lambda i: found[i].epsilon):
        alike = list(members)
        index = slice(alike[0], alike[-1] + 1)
        estimates += sampling(
            _part(loss, index, count),
            select(centres, index),
            config=replace(config, epsilon=epsilon),
            seeds=seeds[index],
            keeper=keeper.part(f"from {alike[0]}"),
        )
    return [
        replace(
            estimate,
            gradients=estimate.gradients + own.gradients,
            calibration_gradients=own.gradients,
            calibration_seconds=own.seconds,
            calibration=own.table(),
            advice=own.advice,
        )
        for estimate, own in zip(estimates, found, strict=True)
    ]


def _part(loss: StackedLoss, index: slice, count: int) -> StackedLoss:
    """The loss of some of `count` centres."""
    return loss if count == 1 else loss.select(index)


def _sampled(
    loss: StackedLoss,
    centres: Params,
    *,
    nbeta: float,
    config: SGLDConfig,
    sampler_config: SamplerConfig,
    seeds: Sequence[int],
    metric: Params | None,
    **options: Any,
) -> list[Estimate]:
    """The estimate at each centre, all with the ε of `config`; options as for `sampled`."""
    return sampled(
        LocalPosterior.around(loss, centres, nbeta, config.gamma, metric=metric),
        partial(choose, sampler_config, config),
        config,
        seeds,
        hot=hottest(config, sampler_config),
        nbeta=nbeta,
        epsilon=config.step_size,
        **options,
    )
