"""Losses whose posteriors are known exactly, as `llc.models.base.StackedLoss`, and shared helpers.

Hundreds of chains are one stack of vectors here, so that Monte-Carlo errors come from chains that
are independent by construction.
"""

import math

import numpy as np
import torch

from llc.models.base import EVERY, LossBlock
from llc.posterior import LocalPosterior
from llc.samplers.sgld import sgld
from llc.sampling import Schedule, sample
from llc.streams import Stream

# Between R-hats of the same draws to rounding. The two draws next to the median are equally far
# from it, and rounding decides which of their ranks is whose.
SWAPPED_RANKS = 2e-3


class VectorLoss:
    """L_B(w) = value(w) + ⟨mean of the tilts in B, w⟩ for vectors w; tilts (n, d) sum to zero."""

    def __init__(self, dimension, value, gradient, num_examples=1000, tilts=None):
        self.shapes = {"w": (dimension,)}
        self.num_examples = num_examples if tilts is None else len(tilts)
        self.value, self.gradient, self.tilts = value, gradient, tilts

    def reference(self, centres):
        return centres["w"].clone()

    def block(self, like, reference, steps):
        return VectorBlock(self, like["w"], reference, steps)

    def full_data(self, weights):
        return self.value(weights["w"].double())

    def numbers_per_step(self, batch_size):
        return 1

    def examples_per_step(self, batch_size):
        return 1

    def select(self, index):
        return self

    def repeat(self, times):
        return self


class VectorBlock(LossBlock):
    def __init__(self, loss, like, reference, steps):
        self.loss, self.reference = loss, reference
        self.points = like.new_empty(steps, *like.shape)

    def load(self, steps, indices):
        self.used = steps
        self.tilts = self.points.new_zeros(steps, 1, 1)
        if indices is not None and self.loss.tilts is not None:
            self.tilts = self.loss.tilts[indices].mean(2)

    def add_gradient(self, step, weights, out, scale):
        w = weights["w"]
        self.points[step] = w
        out["w"].add_(self.loss.gradient(w) + self.tilts[step], alpha=scale)

    def losses(self, steps=EVERY):
        return self._values(self.points[: self.used], steps)

    def baselines(self, steps=EVERY):
        values = self._values(self.reference.expand(self.used, -1, -1), steps)
        return values.expand(-1, self.points.shape[1])

    def _values(self, points, steps):
        return self.loss.value(points[steps]) + (points[steps] * self.tilts[steps]).sum(-1)


def quadratic_loss(curvatures, num_examples=1000, tilts=None):
    """½ Σ hᵢ wᵢ²."""
    h = torch.as_tensor(curvatures, dtype=torch.float64)
    return VectorLoss(
        len(h), lambda w: 0.5 * (h * w * w).sum(-1), lambda w: h * w, num_examples, tilts
    )


def cross_loss():
    """w₁²w₂², singular at zero."""
    return VectorLoss(
        2, lambda w: w.square().prod(-1), lambda w: 2 * w * w.square().flip(-1), num_examples=1000
    )


def centred_tilts(num_examples, dimension, scale, seed=0):
    tilts = torch.randn(
        num_examples, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return scale * (tilts - tilts.mean(0))


def run_sgld(
    loss, *, nbeta, gamma, epsilon, chains, num_steps, seed=0, batch_size=None, period=None,
    start=None, **schedule,
):  # fmt: skip
    """SGLD around zero: `chains` chains, all data a step unless `batch_size` is given."""
    zero = {
        name: torch.zeros(1, *shape, dtype=torch.float64) for name, shape in loss.shapes.items()
    }
    posterior = LocalPosterior.around(loss, zero, nbeta, gamma, chains)
    return sample(
        posterior,
        lambda part: sgld(part, epsilon, period),
        Schedule(num_steps, batch_size or loss.num_examples, **schedule),
        [Stream(seed, chain) for chain in range(chains)],
        start=start,
    )


def chain_mean_and_error(values):
    """Mean of (C, …) over everything, and its standard error from C independent chains."""
    per_chain = np.asarray(values, dtype=float).reshape(len(values), -1).mean(1)
    return per_chain.mean(), per_chain.std(ddof=1) / math.sqrt(len(per_chain))


def assert_vanishes(gap, sigmas):
    """The mean of (C, …) is zero within `sigmas` standard errors from C independent chains."""
    mean, error = chain_mean_and_error(gap)
    assert abs(mean) < sigmas * error


def dkw_bound(count, false_fail):
    """sup|F_n − F| exceeds this with probability ≤ false_fail (Massart 1990)."""
    return math.sqrt(math.log(2 / false_fail) / (2 * count))


def normals(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
