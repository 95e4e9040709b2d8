"""All data at once, for samplers that are exact."""

from collections.abc import Sequence

import torch
from torch import Tensor

from llc.params import Params, Stack, derive, one_by_one
from llc.posterior import LocalPosterior

LONG = 300_000  # parameters times examples of a gradient that no stack makes cheaper


class FullData:
    """U and ∇U over all data, for samplers that are exact: in float64, whatever w* came in.

    The gradient is computed in the precision of the posterior's parameters. That costs a
    Metropolised sampler nothing in exactness: a leapfrog step is reversible and keeps volume for
    any function of the position in place of the gradient, and energies are float64's.

    steps: at how many points, of a step each, losses can be asked for together. apart: chains whose
    gradient takes long are evaluated one by one, so that those that need none can be left out.
    """

    def __init__(self, posterior: LocalPosterior, steps: int = 1, *, apart: bool = False) -> None:
        self.posterior, self.layout = posterior, posterior.layout
        self.apart = apart and posterior.chains > 1 and _takes_long(posterior)
        each = (posterior.select(slice(c, c + 1)) for c in range(posterior.chains))
        self.blocks = [one.block(steps) for one in (each if self.apart else [posterior])]
        for block in self.blocks:
            block.load(steps, None)
        like = posterior.centre.flat
        self.exact = like.dtype == torch.float64
        self.centre = self.layout.stack(like.double())
        self.point = self.layout.stack(torch.empty_like(like))  # where the precision differs
        self.slope = self.layout.stack(torch.empty_like(like))
        self.centre_loss = self._full_loss(self.centre.leaves)

    def gradient(self, weights: Stack, out: Tensor) -> Tensor:
        """out (total,) ← ∇U at `weights`, both float64."""
        if not self.exact:
            self.point.flat.copy_(weights.flat)
        self.slope.flat.zero_()
        self.add_gradient((weights if self.exact else self.point).leaves, self.slope.leaves)
        torch.sub(weights.flat, self.centre.flat, out=out).mul_(self.posterior.gamma)
        return out.add_(self.slope.flat)

    def add_gradient(
        self, weights: Params, out: Params, step: int = 0, going: Sequence[bool] | None = None
    ) -> None:
        """out ← out + nβ∇L_n, in the posterior's precision; of the chains `going` at least."""
        if not self.apart:
            self.blocks[0].add_gradient(step, weights, out, self.posterior.nbeta)
            return
        chains = zip(self.blocks, derive(weights, one_by_one), derive(out, one_by_one), strict=True)
        for chain, (block, own, slope) in enumerate(chains):
            if going is None or going[chain]:
                block.add_gradient(step, own, slope, self.posterior.nbeta)

    def loss(self, weights: Stack) -> Tensor:
        """(C,) L_n(w) where `gradient` was last asked."""
        return self.losses([weights.leaves])[0]

    def losses(self, points: Sequence[Params]) -> Tensor:
        """(K, C) L_n at K points, where `add_gradient` was last asked in the steps 0 … K − 1."""
        if not self.exact:
            return torch.stack([self._full_loss(weights) for weights in points])
        each = [block.losses(slice(len(points))) for block in self.blocks]
        return torch.cat(each, 1) if self.apart else each[0]

    def potential(self, weights: Stack, loss: Tensor) -> Tensor:
        """(C,) U(w), for its loss."""
        pull = (weights.flat - self.centre.flat).square_()
        return self.posterior.nbeta * loss + self.posterior.gamma / 2 * self.layout.sums(pull)

    def _full_loss(self, weights: Params) -> Tensor:
        return self.posterior.loss.full_data(weights)


def _takes_long(posterior: LocalPosterior) -> bool:
    """Whether the gradient of a chain costs as much by itself as in a stack."""
    examples = posterior.loss.examples_per_step(posterior.loss.num_examples)
    on_cpu = posterior.anchor.flat.device.type == "cpu"
    return on_cpu and posterior.layout.size * examples >= LONG
