"""All data at once, for samplers that are exact."""

from collections.abc import Sequence

import torch
from torch import Tensor

from llc.models.base import LossBlock
from llc.params import Params, Stack, derive, one_by_one
from llc.posterior import LocalPosterior

LONG = 300_000  # parameters times examples, of one chain


class FullData:
    """U and ∇U over all data, for samplers that are exact: in float64, whatever w* came in.

    The gradient is computed in the precision of the posterior's parameters. That costs a
    Metropolised sampler nothing in exactness: a leapfrog step is reversible and keeps volume for
    any function of the position in place of the gradient, and energies are float64's.

    steps: at how many points, of a step each, losses can be asked for together. apart: where a
    gradient takes long and few chains need one, these are evaluated by themselves.
    """

    def __init__(self, posterior: LocalPosterior, steps: int = 1, *, apart: bool = False) -> None:
        self.posterior, self.layout, self.steps = posterior, posterior.layout, steps
        self.apart = apart and posterior.chains > 1 and _takes_long(posterior)
        self._singles: dict[int, LossBlock] = {}  # of single chains, made when first needed
        self._alone: set[int] = set()  # the chains that were last evaluated there
        self.block = self._block(posterior)
        like = posterior.centre.flat
        self.exact = like.dtype == torch.float64
        self.centre = self.layout.stack(like.double())
        self.point = self.layout.stack(torch.empty_like(like))  # where the precision differs
        self.slope = self.layout.stack(torch.empty_like(like))
        self.centre_loss = self._full_loss(self.centre.leaves)

    def _block(self, posterior: LocalPosterior) -> LossBlock:
        block = posterior.block(self.steps)
        block.load(self.steps, None)
        return block

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
    ) -> int:
        """out ← out + nβ∇L_n in the posterior's precision, of the chains `going` at least; returns
        of how many."""
        nbeta, chains = self.posterior.nbeta, self.posterior.chains
        if going is None or not self.apart or 2 * sum(going) > chains:
            self._alone.clear()
            self.block.add_gradient(step, weights, out, nbeta)
            return chains
        places, slopes = derive(weights, one_by_one), derive(out, one_by_one)
        some = [chain for chain, goes in enumerate(going) if goes]
        for chain in some:
            self._single(chain).add_gradient(step, places[chain], slopes[chain], nbeta)
        self._alone.update(some)
        return len(some)

    def _single(self, chain: int) -> LossBlock:
        if chain not in self._singles:
            own = self.posterior.select(slice(chain, chain + 1))
            self._singles[chain] = self._block(own)
        return self._singles[chain]

    def loss(self, weights: Stack) -> Tensor:
        """(C,) L_n(w) where `gradient` was last asked."""
        return self.losses([weights.leaves])[0]

    def losses(self, points: Sequence[Params]) -> Tensor:
        """(K, C) L_n at K points, where `add_gradient` was last asked in the steps 0 … K − 1."""
        if not self.exact:
            return torch.stack([self._full_loss(weights) for weights in points])
        steps = slice(len(points))
        losses = self.block.losses(steps)
        for chain in self._alone:
            losses[:, chain] = self._singles[chain].losses(steps)[:, 0]
        return losses

    def potential(self, weights: Stack, loss: Tensor) -> Tensor:
        """(C,) U(w), for its loss."""
        pull = (weights.flat - self.centre.flat).square_()
        return self.posterior.nbeta * loss + self.posterior.gamma / 2 * self.layout.sums(pull)

    def _full_loss(self, weights: Params) -> Tensor:
        return self.posterior.loss.full_data(weights)


def _takes_long(posterior: LocalPosterior) -> bool:
    """Whether a gradient costs as much by itself as its share of a stack."""
    examples = posterior.loss.examples_per_step(posterior.loss.num_examples)
    on_cpu = posterior.anchor.flat.device.type == "cpu"
    return on_cpu and posterior.layout.size * examples >= LONG
