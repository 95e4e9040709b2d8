"""Where the diagonal G of preconditioned SGLD comes from; the equations stand in `psgld`."""

import torch
from torch import Tensor

from llc.params import Stack
from llc.posterior import LocalPosterior
from llc.samplers.base import Block


class Given:
    """A constant G."""

    warm_up = 0

    def __init__(self, diagonal: Tensor) -> None:
        self.diagonal = diagonal

    def learns(self, step: int) -> bool:
        """Whether G follows w at step t."""
        return False

    def at(self, gradient: Tensor, square: Tensor, step: int) -> Tensor:
        """G (total,) at step t, given g; brings V up to date. Valid until the next call."""
        return self.diagonal

    def derivative(self, gradient: Tensor, curvature: Tensor) -> Tensor:
        """Γ of the G last given, for g and the diagonal of ∇²L_B."""
        return torch.zeros_like(self.diagonal)


class Learnt:
    """G = 1/(a + √V̂), for ever or until the end of a warm-up."""

    def __init__(self, like: Tensor, decay: float, stability: float, warm_up: int) -> None:
        self.decay, self.stability, self.warm_up = decay, stability, warm_up
        self.diagonal, self.root = torch.empty_like(like), torch.empty_like(like)

    def learns(self, step: int) -> bool:
        return not self.warm_up or step < self.warm_up

    def at(self, gradient: Tensor, square: Tensor, step: int) -> Tensor:
        updates = step + 1 if self.learns(step) else self.warm_up
        if self.learns(step):
            square.mul_(self.decay).addcmul_(gradient, gradient, value=1 - self.decay)
        torch.mul(square, 1 / (1 - self.decay**updates), out=self.root).sqrt_()  # √V̂
        return torch.add(self.root, self.stability, out=self.diagonal).reciprocal_()

    def derivative(self, gradient: Tensor, curvature: Tensor) -> Tensor:
        tiny = torch.finfo(self.root.dtype).tiny  # where V̂ = 0, so is g
        slope = gradient * curvature / self.root.clamp_min(tiny)
        return slope.mul_(self.diagonal.square()).neg_()


class DiagonalHessian:
    """The diagonal of ∇²L_B, estimated with the signs of a step's noise.

    They are random, and independent of what else the noise does: the estimate is even in them.
    """

    def __init__(self, posterior: LocalPosterior) -> None:
        like = posterior.centre.flat
        self.delta = torch.finfo(like.dtype).eps ** (1 / 3)
        self.point, self.change = (posterior.layout.stack(torch.empty_like(like)) for _ in range(2))

    def at(self, block: Block, step: int, weights: Stack, noise: Tensor) -> Tensor:
        """z (∇L_B(w + δz) − ∇L_B(w − δz))/2δ, flat; valid until the next call."""
        signs = noise.sign()
        self.change.flat.zero_()
        for delta in (self.delta, -self.delta):
            torch.add(weights.flat, signs, alpha=delta, out=self.point.flat)
            block.batches.add_gradient(step, self.point.leaves, self.change.leaves, 1 / (2 * delta))
        return self.change.flat.mul_(signs)
