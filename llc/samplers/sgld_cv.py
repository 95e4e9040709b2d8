"""SGLD with control variates around w* (SGLD-CV; Baker, Fearnhead, Fox & Nemeth 2019).

    Δw = −(ε/2) ĝ(w) + √ε ξ,
    ĝ(w) = nβ (∇L_n(w*) + ∇L_B(w) − ∇L_B(w*)) + γ(w − w*):
SGLD's step with an estimate of ∇U that is as unbiased as ∇U_B, and whose minibatch noise vanishes
at w* and grows with the distance from it. ε means what it means for SGLD. ∇L_n(w*) is computed
once; a step takes two minibatch gradients. Where the loss of every example is stationary at w*
(a teacher without noise) ∇L_B(w*) = 0 = ∇L_n(w*), and it is SGLD at twice the cost.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llc.models.base import EVERY, LossBlock
from llc.params import Params, Stack
from llc.posterior import LocalPosterior
from llc.samplers.base import Block, Check, Info, Sampler
from llc.samplers.sgld import State, sgld

AT_ONCE = 1024  # examples, while ∇L_n(w*) is computed


def sgld_cv(posterior: LocalPosterior, epsilon: float, check_period: int | None = None) -> Sampler:
    """SGLD-CV with step size ε; every `check_period` steps one step is looked at more closely.

    Of the checks `squared_gradient` is ‖ĝ‖², which the step-size bias comes from; the acceptance is
    NaN: L_B, which the potential is made of, has another gradient. The one gradient over all data
    is not counted among the cost.
    """
    plain = sgld(posterior, epsilon, check_period)
    variates = ControlVariates.around(posterior)

    def advance(state: State, block: Block) -> tuple[State, Info]:
        batches = replace(variates, batches=block.batches)
        after, info = plain.advance(state, block._replace(batches=batches))
        steps, chains = info.loss.shape
        checks = {step: _without_acceptance(check) for step, check in info.checks.items()}
        return after, info._replace(checks=checks, gradients=2 * steps * chains)

    return plain._replace(advance=advance)


def _without_acceptance(check: Check) -> Check:
    return check._replace(acceptance=torch.full_like(check.acceptance, torch.nan))


@dataclass(frozen=True)
class ControlVariates(LossBlock):
    """A block of minibatches whose gradients are ∇L_n(w*) + ∇L_B(w) − ∇L_B(w*)."""

    batches: LossBlock
    centre: Stack  # w*
    full: Tensor  # ∇L_n(w*), flat
    # Two buffers and a difference: what is added to one and then taken from it may leave rounding.
    here: Stack
    there: Stack

    @classmethod
    def around(cls, posterior: LocalPosterior) -> "ControlVariates":
        """Those of all the data: the gradient at w* is computed here."""
        layout, centre = posterior.layout, posterior.centre
        full, here, there = (layout.stack(torch.zeros_like(centre.flat)) for _ in range(3))
        batches, examples = posterior.block(1), posterior.loss.num_examples
        indices = torch.arange(examples, dtype=torch.int32, device=full.flat.device)
        for part in torch.split(indices, AT_ONCE):
            batches.load(1, part.view(1, 1, -1))
            batches.add_gradient(0, centre.leaves, full.leaves, len(part) / examples)
        return cls(batches, centre, full.flat, here, there)

    def load(self, steps: int, indices: Tensor | None) -> None:
        self.batches.load(steps, indices)

    def add_gradient(self, step: int, weights: Params, out: Params, scale: float) -> None:
        for stack, at in ((self.there, self.centre.leaves), (self.here, weights)):
            stack.flat.zero_()  # w comes last: its loss is the one that is asked for
            self.batches.add_gradient(step, at, stack.leaves, 1.0)
        self.here.flat.sub_(self.there.flat).add_(self.full)
        for name, leaf in self.here.leaves.items():
            out[name].add_(leaf, alpha=scale)

    def losses(self, steps: slice = EVERY) -> Tensor:
        return self.batches.losses(steps)

    def baselines(self, steps: slice = EVERY) -> Tensor:
        return self.batches.baselines(steps)
