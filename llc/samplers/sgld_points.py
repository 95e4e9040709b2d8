"""SGLD whose chains have an ε, a γ and an nβ each: several points of a grid in one stack.

    Δw = −(ε/2) ∇U_B(w) + √ε ξ,   ξ ~ N(0, I),   U_B(w) = nβ L_B(w) + (γ/2)‖w − w*‖²,
to rounding what `sgld` does at one point. Factors for every number of the stack replace those for
all of it: they take the room of four stacks, and a gradient of its own that of a fifth.
"""

import torch
from torch import Tensor

from llc.params import Stack
from llc.posterior import LocalPosterior
from llc.samplers.base import Block, Info, Noise, Sampler, due
from llc.samplers.sgld import State, look


def sgld_points(posterior: LocalPosterior, check_period: int | None = None) -> Sampler:
    """SGLD at the `points` of the posterior; `check_period` as for `sgld`.

    Raises: ValueError for a posterior whose chains share ε, γ and nβ.
    """
    if posterior.points is None:
        raise ValueError("posterior: has no points: use sgld")
    layout, like = posterior.layout, posterior.anchor.flat
    epsilon, gamma, nbeta = posterior.points

    def spread(values: Tensor) -> Tensor:
        return layout.spread(values, like.new_empty(layout.total))

    scale, half = spread(epsilon.sqrt()), -epsilon / 2
    pull, drift = spread(half * gamma), spread(half * nbeta)
    home = -pull * posterior.centre.flat
    slope = layout.stack(torch.empty_like(scale))

    def init(position: Stack) -> State:
        return State(position, 0)

    def advance(state: State, block: Block) -> tuple[State, Info]:
        weights = state.position
        torch.addcmul(home, block.flat, scale, out=block.flat)
        looks = due(state.step, len(block.positions), check_period)
        slopes = like.new_empty(len(looks), layout.total)
        for step, proposal in enumerate(block.positions):
            slope.flat.zero_()
            block.batches.add_gradient(step, weights.leaves, slope.leaves, 1.0)
            if step in looks:
                slopes[looks.index(step)] = slope.flat
            # In float32 a small εγ/2 is lost in 1 − εγ/2; beside the noise it keeps its digits.
            proposal.flat.addcmul_(slope.flat, drift).addcmul_(weights.flat, pull)
            proposal.flat.add_(weights.flat)
            weights = proposal
        loss, baseline = block.batches.losses(), block.batches.baselines()
        checks = look(posterior, block, looks, state.position, slopes, epsilon)
        return State(weights, state.step + len(loss)), Info(loss, baseline, checks)

    return Sampler(Noise(), init, advance)
