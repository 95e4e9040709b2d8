"""The Metropolis-adjusted Langevin algorithm on all data (Roberts & Tweedie 1996): exact.

    w' = w − (ε/2)∇U(w) + √ε ξ,   accepted with probability
    min(1, exp(U(w) − U(w') + log q(w|w') − log q(w'|w))),   q(·|w) = N(w − (ε/2)∇U(w), εI):
SGLD's step with all data and an accept step, so that ε changes how fast it moves but not where to.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from llc.params import Stack
from llc.posterior import LocalPosterior
from llc.samplers.adaptation import StepSize
from llc.samplers.base import Block, Check, Info, Noise, Sampler
from llc.samplers.full_data import FullData
from llc.samplers.metropolis import Place, accept

TARGET = 0.574  # the acceptance that moves fastest in many dimensions (Roberts & Rosenthal 1998)


class State(NamedTuple):
    """Carried from block to block."""

    position: Stack  # w_t, float64
    slope: Tensor  # ∇U there, flat
    loss: Tensor  # (C,) L_n
    potential: Tensor  # (C,) U
    step_size: StepSize
    step: int  # t


def mala(
    posterior: LocalPosterior, epsilon: float, *, warm_up: int = 0, target: float = TARGET
) -> Sampler:
    """MALA with step size ε; with a `warm_up` each chain adapts ε to the acceptance `target`."""
    full, layout = FullData(posterior), posterior.layout
    spread = torch.empty_like(full.centre.flat)

    def init(position: Stack) -> State:
        place = Place.at(full, position)
        first = torch.full_like(place.loss, epsilon)
        return State(*place, StepSize.start(first), 0)

    def advance(state: State, block: Block) -> tuple[State, Info]:
        assert block.uniforms is not None
        losses, checks = [], {}
        for step, noise in enumerate(block.positions):
            losses.append(state.loss)
            state, checks[step] = transition(state, noise.flat, block.uniforms[step, :, 0])
            noise.flat.copy_(state.position.flat)
        loss = torch.stack(losses)
        return state, Info(loss, full.centre_loss.expand_as(loss), checks)

    def transition(state: State, noise: Tensor, uniform: Tensor) -> tuple[State, Check]:
        epsilons = state.step_size.value(state.step >= warm_up) if warm_up else first(state)
        steps = layout.spread(epsilons, spread)
        old = Place(*state[:4])
        start = old.position.flat.addcmul(steps, old.slope, value=-0.5)
        proposal = layout.stack(start.addcmul(steps.sqrt(), noise.double()))
        slope = full.gradient(proposal, torch.empty_like(start))
        new = Place.seen(full, proposal, slope)
        # log q(w|w') − log q(w'|w) = (‖w' − w + (ε/2)∇U‖² − ‖w − w' + (ε/2)∇U'‖²)/2ε
        back = old.position.flat - proposal.flat
        back.addcmul_(steps, slope, value=0.5)
        forward = layout.sums(noise.double().square())
        log_q = 0.5 * (forward - layout.sums(back.square_()) / epsilons)
        place, acceptance = accept(layout, old.potential - new.potential + log_q, uniform, new, old)
        adapted = state.step_size
        if state.step < warm_up:
            adapted = adapted.update(acceptance, target)
        check = Check(acceptance, torch.full_like(acceptance, torch.nan), place.potential, epsilons)
        return State(*place, adapted, state.step + 1), check

    def first(state: State) -> Tensor:
        return torch.full_like(state.loss, epsilon)

    return Sampler(Noise(), init, advance, uniforms=1, warm_up=warm_up)
