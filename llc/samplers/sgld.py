"""Stochastic gradient Langevin dynamics (Welling & Teh 2011) on the local posterior.

    Δw = −(ε/2) ∇U_B(w) + √ε ξ,   ξ ~ N(0, I),   U_B(w) = nβ L_B(w) + (γ/2)‖w − w*‖².

On a quadratic potential of curvature a the stationary variance is 1/(a(1 − εa/4)): unbiased as
ε → 0, unstable from ε = 4/a on.
"""

from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from llc.params import Layout, Stack
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
    keep = [1 - pull]
    rounded = torch.tensor(keep[0], dtype=posterior.anchor.flat.dtype).item()
    if abs((1 - rounded) - pull) > 0.001 * pull:
        # In float32 a small εγ/2 is lost in 1 − εγ/2. Beside the noise −(εγ/2) w keeps its digits.
        keep = [-pull, 1.0]

    def init(position: Stack) -> State:
        return State(position, 0)

    def advance(state: State, block: Block) -> tuple[State, Info]:
        path, batches = [state.position, *block.positions], block.batches
        looks, begin = due(state.step, len(block.positions), check_period), 0
        slopes = state.position.flat.new_zeros(len(looks), len(state.position.flat))
        for step, slope in zip(looks, slopes, strict=True):  # each has its gradient by itself
            batches.descend(path, range(begin, step), keep, drift)
            here, there = path[step], path[step + 1]
            batches.add_gradient(step, here.leaves, posterior.layout.views(slope), 1.0)
            for factor, part in (*((factor, here.flat) for factor in keep), (drift, slope)):
                there.flat.add_(part, alpha=factor)
            begin = step + 1
        batches.descend(path, range(begin, len(block.positions)), keep, drift)
        loss, baseline = batches.losses(), batches.baselines()
        checks = look(posterior, block, looks, state.position, slopes, epsilon)
        return State(path[-1], state.step + len(loss)), Info(loss, baseline, checks)

    noise = Noise(posterior.anchor.flat if pull else None, sqrt(epsilon), pull)
    return Sampler(noise, init, advance)


def look(
    posterior: LocalPosterior,
    block: Block,
    steps: range,
    start: Stack,
    slopes: Tensor,
    epsilon: float | Tensor,
    metric: Tensor | None = None,
) -> dict[int, Check]:
    """A closer look at some steps of a block from `start`, all at once.

    The acceptance probability is what MALA would give the move w -> w' on that step's minibatch:
        min(1, exp(U(w) − U(w') + log q(w|w') − log q(w'|w))),  q(·|w) = N(w − (ε/2)G∇U(w), εG)
    (Roberts & Tweedie 1996). A diagnostic of the step size: full-data MALA accepts less.
    `slopes`: ∇L_B (K, total) at the start of the K steps, where the block's gradients were asked
    last; overwritten, so that there is no more than one gradient more than in a step.
    `epsilon`: of all chains, or of each (C,), G being one. `metric`: G (K, total) of the K steps,
    where it is not one; then `squared_gradient` is ∇Uᵀ G ∇U.
    """
    if not steps:
        return {}
    layout = posterior.layout
    before = [block.positions[step - 1].flat if step else start.flat for step in steps]
    here = before[0].unsqueeze(0) if len(steps) == 1 else torch.stack(before)
    there = block.flat[steps.start : steps.stop : steps.step]

    def seen(at: Tensor, to: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """U and ∇Uᵀ G ∇U at one end, and the mismatch of a move from there to the other."""
        *_, potential, grad = posterior.evaluate_each(block.batches, steps, at, slopes)
        squares = layout.sums(grad, grad) if metric is None else layout.sums(grad, grad, metric)
        return potential, squares, _mismatch(layout, to, at, grad, epsilon, metric)

    old, squares, forward = seen(here, there)
    for step, slope in zip(steps, slopes.zero_(), strict=True):
        block.batches.add_gradient(step, block.positions[step].leaves, layout.views(slope), 1.0)
    new, _, backward = seen(there, here)
    acceptance = old - new + (forward - backward) / (2 * epsilon)
    columns = acceptance.clamp_(max=0).exp_(), squares, new, torch.ones_like(new) * epsilon
    return {step: Check(*(values[k] for values in columns)) for k, step in enumerate(steps)}


def _mismatch(
    layout: Layout,
    to: Tensor,
    start: Tensor,
    grad: Tensor,
    epsilon: float | Tensor,
    metric: Tensor | None,
) -> Tensor:
    """(K, C) Σ x²/G of x = to − (start − (ε/2) G ∇U(start)), in float64, leaf by leaf."""
    ends, starts, parts = layout.views(to), layout.views(start), []
    factors = {} if metric is None else layout.views(metric)
    for name, slope in layout.views(grad).items():
        gap = torch.sub(ends[name], starts[name])
        if isinstance(epsilon, Tensor):
            half = (epsilon / 2).to(gap).view(-1, *[1] * (gap.dim() - 2))
            gap.addcmul_(slope, half).square_()
        elif metric is None:
            gap.add_(slope, alpha=epsilon / 2).square_()
        else:
            gap.addcmul_(factors[name], slope, value=epsilon / 2).square_().div_(factors[name])
        parts.append(gap.reshape(*gap.shape[:2], -1).sum(2, dtype=torch.float64))
    return torch.stack(parts).sum(0)
