"""Stochastic gradient Hamiltonian Monte Carlo (Chen, Fox & Guestrin 2014): Langevin with momentum.

    v' = (1 − α) v + α (−(ε/2) ∇U_B(w) + √ε ξ),   w' = w + v',   ξ ~ N(0, I),
their equation 15 with the learning rate η = αε/2 and no estimate of the minibatch noise: v is the
moving average of SGLD's moves over some 1/α steps, α in (0, 1] the friction. ε means what it means
for SGLD: with α = 1 this is SGLD, number for number, and with any α a chain covers flat directions
as fast as SGLD of the same ε does (drift −(ε/2)∇U, diffusion ε, in steps longer than 1/α).

On a quadratic potential of curvature a the stationary variance is 1/(a(1 − αεa/(4(2 − α)))), the
velocity's (αε/(2 − α)) times the same factor; it is stable below εa = 4(2 − α)/α. A small α allows
a larger ε, or makes its bias smaller, by (2 − α)/α.

On any potential stationarity gives E⟨w − w*, ∇U⟩ = (2 − α) E‖v‖²/(αε) (expand E‖w'‖²), d if it were
exact. So the velocity tells the step-size bias: with u the part of v' that is not this step's noise
`Check.squared_gradient` is (4/ε)((2 − α)‖u‖²/(αε) − (1 − α)²d), on average, minibatch noise
included; for α = 1 it is ‖∇U_B‖².
"""

from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from llc.config.search import FRICTION
from llc.params import Stack
from llc.posterior import LocalPosterior
from llc.samplers.base import Block, Info, Noise, Sampler, bias_check, due


class State(NamedTuple):
    """Carried from block to block."""

    position: Stack  # w_t
    velocity: Tensor  # v_t, flat
    step: int  # t


class Kick(NamedTuple):
    """What a step adds to the velocity: α (−(ε/2)∇U_B(w) + √ε ξ)."""

    noise: Noise
    pull: float
    drift: float

    @classmethod
    def of(cls, posterior: LocalPosterior, epsilon: float, friction: float) -> "Kick":
        """With the friction α; raises ValueError unless 0 < α ≤ 1."""
        if not 0 < friction <= 1:
            raise ValueError(f"friction={friction}: must be above 0 and at most 1, which is SGLD")
        half = friction * epsilon / 2
        pull = half * posterior.gamma
        noise = Noise(posterior.anchor.flat if pull else None, friction * sqrt(epsilon), pull)
        return cls(noise, pull, -half * posterior.nbeta)

    def add(self, block: Block, step: int, weights: Stack, velocity: Stack) -> None:
        """velocity ← velocity + the kick, but for what its noise has brought already."""
        if self.pull:
            velocity.flat.add_(weights.flat, alpha=-self.pull)
        block.batches.add_gradient(step, weights.leaves, velocity.leaves, self.drift)


def sghmc(
    posterior: LocalPosterior,
    epsilon: float,
    *,
    friction: float = FRICTION,
    check_period: int | None = None,
) -> Sampler:
    """SGHMC with step size ε and friction α, from rest.

    Every `check_period` steps one step is looked at more closely; it has no acceptance probability.
    Raises: ValueError unless 0 < α ≤ 1.
    """
    kick, layout = Kick.of(posterior, epsilon, friction), posterior.layout
    lasting = 1 - friction

    def init(position: Stack) -> State:
        return State(position, torch.zeros_like(position.flat), 0)

    def advance(state: State, block: Block) -> tuple[State, Info]:
        weights, velocity, checks = state.position, state.velocity.clone(), {}
        looks = due(state.step, len(block.positions), check_period)
        for step, proposal in enumerate(block.positions):
            noise = proposal.flat.clone() if step in looks else None
            proposal.flat.add_(velocity, alpha=lasting)
            kick.add(block, step, weights, proposal)
            if noise is not None:
                checks[step] = bias_check(squared_gradient(proposal.flat - noise), epsilon)
            velocity.copy_(proposal.flat)
            proposal.flat.add_(weights.flat)
            weights = proposal
        loss, baseline = block.batches.losses(), block.batches.baselines()
        return State(weights, velocity, state.step + len(loss)), Info(loss, baseline, checks)

    def squared_gradient(own: Tensor) -> Tensor:
        """From u, but for the shift that came with the noise."""
        if kick.pull:
            for name, leaf in layout.views(own).items():
                leaf.add_(posterior.anchor.leaves[name], alpha=kick.pull)
        energy = (1 + lasting) / (friction * epsilon) * layout.sums(own.square_())
        return 4 / epsilon * (energy - lasting**2 * layout.size)

    return Sampler(kick.noise, init, advance)
