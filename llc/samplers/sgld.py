"""Stochastic gradient Langevin dynamics (Welling & Teh 2011) on the local posterior.

    Δw = −(ε/2) ∇U_B(w) + √ε ξ,   ξ ~ N(0, I),   U_B(w) = nβ L_B(w) + (γ/2)‖w − w*‖².

On a quadratic potential of curvature a the stationary variance is 1/(a(1 − εa/4)): unbiased as
ε → 0, unstable from ε = 4/a on.
"""

from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from llc.params import Params, Stack
from llc.posterior import LocalPosterior
from llc.samplers.base import Block, Check, Info, Noise, Sampler, due


class State(NamedTuple):
    """Carried from block to block."""

    position: Stack  # w_t
    step: int  # t


def sgld(posterior: LocalPosterior, epsilon: float, check_period: int | None = None) -> Sampler:
    """SGLD with step size ε; every `check_period` steps one step is looked at more closely."""
    gamma = posterior.gamma
    pull, drift = epsilon * gamma / 2, -epsilon / 2 * posterior.nbeta
    keep = 1 - pull
    rounded = torch.tensor(keep, dtype=posterior.anchor.flat.dtype).item()
    if abs((1 - rounded) - pull) > 0.001 * pull:
        # In float32 a small εγ/2 is lost in 1 − εγ/2. Beside the noise −(εγ/2) w keeps its digits.
        keep = 1.0

    def init(position: Stack) -> State:
        return State(position, 0)

    def advance(state: State, block: Block) -> tuple[State, Info]:
        weights = state.position
        for step, proposal in enumerate(block.positions):
            if keep == 1 and pull:
                proposal.flat.add_(weights.flat, alpha=-pull)
            proposal.flat.add_(weights.flat, alpha=keep)
            block.batches.add_gradient(step, weights.leaves, proposal.leaves, drift)
            weights = proposal
        loss, baseline = block.batches.losses(), block.batches.baselines()
        checks = {}
        for step in due(state.step, len(loss), check_period):
            here = block.positions[step - 1] if step else state.position
            checks[step] = check(posterior, block, step, here, epsilon)
        return State(weights, state.step + len(loss)), Info(loss, baseline, checks)

    noise = Noise(posterior.anchor.flat if pull else None, sqrt(epsilon), pull)
    return Sampler(noise, init, advance)


def check(
    posterior: LocalPosterior,
    block: Block,
    step: int,
    here: Stack,
    epsilon: float,
    metric: Tensor | None = None,
) -> Check:
    """The acceptance probability MALA would give the move `here` -> positions[step].

    On that step's minibatch:
        min(1, exp(U(w) − U(w') + log q(w|w') − log q(w'|w))),  q(·|w) = N(w − (ε/2)G∇U(w), εG)
    (Roberts & Tweedie 1996). A diagnostic of the step size: full-data MALA accepts less.
    `metric`: G (total,), where it is not one; then `squared_gradient` is ∇Uᵀ G ∇U.
    """
    there = block.positions[step]
    layout = posterior.layout
    factors = None if metric is None else layout.views(metric)

    def seen(at: Stack, to: Stack) -> tuple[Tensor, Tensor, Tensor]:
        """U and ∇Uᵀ G ∇U at one end, and the mismatch of a move from there to the other."""
        found = posterior.evaluate(block.batches, step, at)
        grad = found.grad.flat  # as large as the stack, and only one of them at a time
        squares = layout.sums(grad, grad) if metric is None else layout.sums(grad, grad, metric)
        moved = _mismatch(to.leaves, at.leaves, found.grad.leaves, epsilon, factors)
        return found.potential, squares, moved

    old, squares, forward = seen(here, there)
    new, _, backward = seen(there, here)
    log_ratio = old - new + (forward - backward) / (2 * epsilon)
    return Check(
        acceptance=log_ratio.clamp(max=0).exp(),
        squared_gradient=squares,
        energy=new,
        step_size=torch.full_like(new, epsilon),
    )


def _mismatch(
    to: Params, start: Params, grad: Params, epsilon: float, metric: Params | None
) -> Tensor:
    """(C,) Σ x²/G of x = to − (start − (ε/2) G ∇U(start)), in float64, leaf by leaf."""
    parts = []
    for name, leaf in grad.items():
        gap = torch.sub(to[name], start[name])
        if metric is None:
            gap.add_(leaf, alpha=epsilon / 2).square_()
        else:
            gap.addcmul_(metric[name], leaf, value=epsilon / 2).square_().div_(metric[name])
        parts.append(gap.flatten(1).sum(1, dtype=torch.float64))
    return torch.stack(parts).sum(0)
