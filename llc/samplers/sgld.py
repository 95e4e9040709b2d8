"""Stochastic gradient Langevin dynamics (Welling & Teh 2011) on the local posterior.

    Δw = −(ε/2) ∇U_B(w) + √ε ξ,   ξ ~ N(0, I),   U_B(w) = nβ L_B(w) + (γ/2)‖w − w*‖².

On a quadratic potential of curvature a the stationary variance is 1/(a(1 − εa/4)): unbiased as
ε → 0, unstable from ε = 4/a on.
"""

from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from llc.params import Stack
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
    shift = posterior.centre.flat * pull if pull else None
    keep = 1 - pull
    rounded = torch.tensor(keep, dtype=posterior.centre.flat.dtype).item()
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
        looks = due(state.step, len(loss), check_period)
        checks = look(posterior, block, looks, state.position, epsilon)
        return State(weights, state.step + len(loss)), Info(loss, baseline, checks)

    return Sampler(Noise(shift, sqrt(epsilon)), init, advance)


def look(
    posterior: LocalPosterior,
    block: Block,
    steps: range,
    start: Stack,
    epsilon: float,
    metric: Tensor | None = None,
) -> dict[int, Check]:
    """A closer look at some steps of a block from `start`, all at once.

    The acceptance probability is what MALA would give the move w -> w' on that step's minibatch:
        min(1, exp(U(w) − U(w') + log q(w|w') − log q(w'|w))),  q(·|w) = N(w − (ε/2)G∇U(w), εG)
    (Roberts & Tweedie 1996). A diagnostic of the step size: full-data MALA accepts less.
    `metric`: G (K, total) of the K steps, where it is not one; then `squared_gradient` is ∇Uᵀ G ∇U.
    """
    if not steps:
        return {}
    sums = posterior.layout.sums
    before = [block.positions[step - 1].flat if step else start.flat for step in steps]
    here, there = torch.stack(before), block.flat[steps.start : steps.stop : steps.step]
    *_, old_potential, old_grad = posterior.evaluate_each(block.batches, steps, here)
    *_, potential, grad = posterior.evaluate_each(block.batches, steps, there)
    forward = sums(_mismatch(there, here, old_grad, epsilon, metric))
    backward = sums(_mismatch(here, there, grad, epsilon, metric))
    acceptance = old_potential - potential + (forward - backward) / (2 * epsilon)
    squares = old_grad.square_()
    columns = (
        acceptance.clamp_(max=0).exp_(),
        sums(squares if metric is None else squares.mul_(metric)),
        potential,
        torch.full_like(potential, epsilon),
    )
    return {step: Check(*(values[k] for values in columns)) for k, step in enumerate(steps)}


def _mismatch(
    to: Tensor, start: Tensor, grad: Tensor, epsilon: float, metric: Tensor | None
) -> Tensor:
    """x² / G of x = to − (start − (ε/2) G ∇U(start)), number by number."""
    gap = torch.sub(to, start)
    if metric is None:
        return gap.add_(grad, alpha=epsilon / 2).square_()
    return gap.addcmul_(metric, grad, value=epsilon / 2).square_().div_(metric)
