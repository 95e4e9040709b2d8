"""Climbing to a step size, look by look."""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

import torch
from torch import Tensor

from llc.calibrate.looks import Look, seen
from llc.checkpoints import Keeper
from llc.config import SamplerConfig, SGLDConfig
from llc.config.search import (
    CHECKS,
    CLIMB,
    FRICTION,
    MALA_STEPS,
    PERIOD,
    PROBES,
    SearchPlan,
)
from llc.params import Params
from llc.posterior import LocalPosterior
from llc.samplers.choose import choose
from llc.samplers.mala import TARGET, mala
from llc.sampling import Schedule, Stacks
from llc.streams import NormalSource, ShuffledBatches, Stream

BIAS, MAX_BIAS = 0.01, 0.02  # share of λ̂: aimed at, and let pass by a check
FLOOR = 0.01  # of d/2: a smaller λ̂ is not measured to 1 %
RECENT = 3  # looks that the bias is taken from
UP, DOWN = 1.0, -3.0  # standard errors on the bias: to be safe, and to be sure that there is one
ACCEPTANCE, MIN_ACCEPTANCE = 0.93, 0.9
MIN_MALA_ACCEPTANCE = 0.45
LOST = 0.5  # acceptance below which a look's end is no place to go on from
GROWTH, SHRINKAGE, RETREAT = 3.0, 1 / 8, 1 / 10  # of ε from look to look; after a divergence
LARGE = 10**6  # parameters above which MALA's float64 copies are more than a look is worth
PHASE = 100  # of the random streams: that of the probes; the looks' come after it


class Search:
    """The looks so far, and where the next one starts."""

    def __init__(
        self,
        posterior: LocalPosterior,
        sampler: SamplerConfig,
        config: SGLDConfig,
        plan: SearchPlan,
        seed: int,
        keeper: Keeper,
        stacks: Stacks,
    ) -> None:
        self.posterior, self.config, self.plan, self.keeper = posterior, config, plan, keeper
        self.stacks, self.chains = stacks, config.num_chains
        # SGNHT measures no bias; SGHMC moves as it does, but has minibatch noise to pay for.
        instead = sampler.name == "sgnht"
        self.sampler = SamplerConfig("sghmc", friction=sampler.friction) if instead else sampler
        self.by_velocity = self.sampler.name == "sghmc"
        # ‖v‖² forgets at twice the rate of v.
        lasting = 1 - (sampler.friction or FRICTION)
        self.memory = lasting ** (2 * PERIOD) if self.by_velocity else 0.0
        self.seed = seed
        self.exact = plan.full_data and posterior.layout.size <= LARGE
        self.looks: list[Look] = []
        self.where: Params | None = None  # where the last look of the climb that went well ended
        share = config.batch_size / posterior.loss.num_examples
        self.gradients = PROBES * self.chains * share

    def streams(self, phase: int) -> list[Stream]:
        return [Stream(self.seed, chain, PHASE + phase) for chain in range(self.chains)]

    def steepness(self) -> float:
        """About the largest curvature a of U_B over the chains, at a distance 1/√a from w*."""
        streams = self.streams(0)
        found = [
            steepest(self.posterior.repeat(group.stop - group.start), streams[group], self.config)
            for group in self.stacks.groups(self.chains)
        ]
        return float(torch.cat(found).max())

    def look(self, stage: str, epsilon: float) -> Look:
        """A short run from `where`."""
        config, steps, turn = self.config, self.plan.steps, len(self.looks) + 1
        trace = self.stacks.run(
            self.posterior,
            self.chains,
            choose(
                self.sampler, replace(config, epsilon=epsilon), steps=steps, check_period=PERIOD
            ),
            Schedule(
                steps, config.batch_size, shared_batches=config.shared_batches, distances=True
            ),
            self.streams(turn),
            start=self.where,
            keeper=self.keeper,
            name=f"look {turn}",
        )
        acceptance = trace.acceptance[:, trace.checked_steps >= steps // 2]
        self.gradients += trace.gradients * (1 + 2 / PERIOD)
        if self.sampler.name in ("sgld_cv", "mala"):
            self.gradients += self.chains
        if self.exact and not (trace.diverged_at >= 0).any():
            acceptance = self.of_all_data(trace.last, epsilon, turn)
        look = seen(trace, stage, epsilon, acceptance, self.posterior, self.memory)
        self.looks.append(look)
        went_wrong = look.diverged_chains or look.acceptance < LOST
        if stage == "climb" and not went_wrong:
            self.where = trace.last
        return look

    def of_all_data(self, start: Params, epsilon: float, turn: int) -> Tensor:
        """The acceptance of a few steps of MALA, (C, steps)."""
        trace = self.stacks.run(
            self.posterior,
            self.chains,
            lambda posterior: mala(posterior, epsilon),
            Schedule(MALA_STEPS, self.posterior.loss.num_examples, ends=False),
            self.streams(turn + CLIMB + CHECKS),
            start=start,
        )
        self.gradients += trace.gradients + self.chains
        return trace.acceptance

    def share(self, epsilon: float, errors: float = UP) -> float:
        """The bias at ε, some standard errors up, as a share of λ̂: from the last looks together.

        Bias over ε and λ̂ freed of its bias are averaged one by one, since in few directions either
        varies a good deal, but both alike. What velocities tell has the same error at every ε, that
        of ½‖v‖²: there bias over ε is known the better the larger ε was, and looks count by ε².
        Below 1 % of d/2, λ̂ counts as that.
        """
        last = [look for look in self.looks if not look.diverged_chains][-RECENT:]
        if not last:
            return math.nan
        weights = [look.epsilon**2 if self.by_velocity else 1.0 for look in last]
        shares = [(look, weight / sum(weights)) for look, weight in zip(last, weights, strict=True)]
        bias = sum(share * look.bias / look.epsilon for look, share in shares)
        error = math.hypot(*(share * look.bias_se / look.epsilon for look, share in shares))
        level = sum(share * (look.llc - look.bias) for look, share in shares)
        floor = FLOOR * self.posterior.layout.size / 2
        return epsilon * (bias + errors * error) / max(floor, level)

    def factor(self, look: Look) -> float:
        """By what ε should change after a look, between its limits.

        On the way up what velocities tell counts only where it is sure: its error alone is more
        than the bias aimed at, whatever ε is, and would send ε down without end.
        """
        if look.diverged_chains:
            return RETREAT
        exact = self.sampler.name == "mala"
        climbing = self.by_velocity and look.stage == "climb"
        share = self.share(look.epsilon, DOWN if climbing else UP)
        by_bias = BIAS / share if share > 0 else math.inf  # NaN: the sampler measures none
        by_acceptance = acceptance_factor(look.acceptance, TARGET if exact else ACCEPTANCE)
        return max(SHRINKAGE, min(GROWTH, by_bias, by_acceptance))

    def passes(self, look: Look) -> bool:
        """Whether a check is good enough; what is undefined (NaN) does not stand in the way."""
        least = MIN_MALA_ACCEPTANCE if self.sampler.name == "mala" else MIN_ACCEPTANCE
        bad = look.acceptance + look.acceptance_se < least or self.share(look.epsilon) > MAX_BIAS
        return not (look.diverged_chains or bad)


def acceptance_factor(acceptance: float, target: float) -> float:
    """By what ε should change to turn one mean acceptance probability into another.

    The mean is 2Φ(−x) in many dimensions, with x ∝ ε^(3/2) (Roberts & Rosenthal 1998).
    """
    if math.isnan(acceptance):
        return math.inf
    x, wanted = (
        -NormalDist().inv_cdf(min(max(p, 1e-9), 1 - 1e-9) / 2) for p in (acceptance, target)
    )
    return float((wanted / x) ** (2 / 3))


@torch.no_grad()
def steepest(posterior: LocalPosterior, streams: Sequence[Stream], config: SGLDConfig) -> Tensor:
    """(C,) about the largest curvature a of each chain's U_B, at a distance 1/√a from w*.

    Power iteration with differences of gradients. The distance is found on the way, each turn
    halving the error of its logarithm: at w* itself a singular loss may be flat.
    """
    layout, anchor = posterior.layout, posterior.anchor
    examples, batches, indices = posterior.loss.num_examples, posterior.block(1), None
    if config.batch_size < examples:
        batch = ShuffledBatches(streams, examples, config.batch_size, anchor.flat.device)
        indices = batch.draw(1)
    batches.load(1, indices)
    vector = layout.stack(anchor.flat.new_empty(layout.total))
    for chains, first, rows in NormalSource(streams, layout.size, 1, anchor.flat).parts(1):
        layout.scatter(rows, vector.flat[None], None, 1.0, chains=chains, first=first)
    at_centre = posterior.evaluate(batches, 0, posterior.centre).grad.flat
    distance = torch.full_like(posterior.centre_loss, max(posterior.gamma, 1.0) ** -0.5)
    curvature = distance**-2
    for _ in range(PROBES - 1):
        length = layout.sums(vector.flat, vector.flat).sqrt()
        for name, leaf in vector.leaves.items():
            scale = (distance / length).to(leaf).view(-1, *[1] * (leaf.dim() - 1))
            leaf.mul_(scale).add_(anchor.leaves[name])
        vector = posterior.evaluate(batches, 0, vector).grad
        vector.flat.sub_(at_centre)
        curvature = layout.sums(vector.flat, vector.flat).sqrt() / distance
        distance = (distance / curvature.sqrt()).sqrt()
    return curvature
