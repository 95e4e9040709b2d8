"""The stochastic gradient Nosé–Hoover thermostat (Ding et al. 2014): SGHMC that finds its friction.

    v' = (1 − ζ) v + α (−(ε/2) ∇U_B(w) + √ε ξ),   w' = w + v',   ξ ~ N(0, I),
    ζ' = ζ + ρ ((1 − ζ/2) v'²/η − 1),   η = αε/2,
their Algorithm 2 in SGHMC's variables, with h² = η, p = v/h and their ξ = ζ/h. The noise of the
minibatch heats the velocities, the friction ζ grows from α until they have the temperature they
should have, and the noise, whatever its size, is paid for. ε means what it means for SGLD and SGHMC
where there is no such noise.

A thermostat *per coordinate* (Gan et al. 2015), not per chain: minibatch noise differs by orders of
magnitude between layers and directions, which a single number could balance only on average; it is
also a few flat operations, where one number a chain needs a sum over every leaf.

Two changes make its stationary law right at a given friction, not only for α → 0. Velocities live
half a step from positions: stationarity gives E⟨w − w*, ∇U⟩ = (1 − ζ/2) E v²/η a coordinate (as for
SGHMC), so that this is what is held at one, the error of the discretisation included: there is no
bias that a `Check` could measure. And the thermostat's inertia is without units, ρ = (α/4)²: ζ
varies by a quarter of α and follows in some 16/α steps, where their ρ = h² would take α/h² of them.
On a Gaussian the variance is then 0.1 % too small at α = 0.1 for ε → 0, 0.4 % at α = 0.3.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from llc.config.search import FRICTION
from llc.params import Stack
from llc.posterior import LocalPosterior
from llc.samplers.base import Block, Info, Sampler
from llc.samplers.sghmc import Kick

INERTIA = 4  # √ρ is the friction over it


class State(NamedTuple):
    """Carried from block to block."""

    position: Stack  # w_t
    velocity: Tensor  # v_t, flat
    friction: Tensor  # ζ_t, flat


def sgnht(posterior: LocalPosterior, epsilon: float, *, friction: float = FRICTION) -> Sampler:
    """SGNHT with step size ε, from rest, its friction starting at α.

    Raises: ValueError unless 0 < α ≤ 1.
    """
    kick = Kick.of(posterior, epsilon, friction)
    rate = (friction / INERTIA) ** 2
    heat = rate * 2 / (friction * epsilon)  # ρ/η

    def init(position: Stack) -> State:
        velocity = torch.zeros_like(position.flat)
        return State(position, velocity, torch.full_like(velocity, friction))

    def advance(state: State, block: Block) -> tuple[State, Info]:
        weights, velocity, frictions = (
            state.position,
            state.velocity.clone(),
            state.friction.clone(),
        )
        lasting, squares = torch.empty_like(velocity), torch.empty_like(velocity)
        for step, proposal in enumerate(block.positions):
            torch.sub(1.0, frictions, out=lasting)
            proposal.flat.addcmul_(velocity, lasting)
            kick.add(block, step, weights, proposal)
            velocity.copy_(proposal.flat)
            torch.square(velocity, out=squares)
            # 1 − ζ/2 = (1 + (1 − ζ))/2
            frictions.addcmul_(lasting.add_(1.0), squares, value=heat / 2).sub_(rate)
            proposal.flat.add_(weights.flat)
            weights = proposal
        loss, baseline = block.batches.losses(), block.batches.baselines()
        return State(weights, velocity, frictions), Info(loss, baseline, {})

    return Sampler(kick.noise, init, advance)
