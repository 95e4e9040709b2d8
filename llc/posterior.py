"""The local posterior of a stack of chains.

    p(w) ∝ exp(−U(w)),   U(w) = nβ L_n(w) + (γ/2)‖w − w*‖²,
n examples, inverse temperature β, localisation γ around the centre w* (Lau et al. 2023). The
minibatch potential replaces L_n by L_B.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import nan
from typing import NamedTuple

import torch
from torch import Tensor

from llc.models.base import LossBlock, StackedLoss
from llc.params import Layout, Params, Stack, repeat, select


class Evaluation(NamedTuple):
    """The potential of a stack of chains on one batch each."""

    loss: Tensor  # (C,) L_B(w)
    baseline: Tensor  # (C,) L_B(w*) on the same examples
    potential: Tensor  # (C,) U(w) = nβ L_B(w) + (γ/2)‖w − w*‖²
    grad: Stack  # ∇U


class Points(NamedTuple):
    """What SGLD samples with where every chain has its own, (C,) float64 each."""

    epsilon: Tensor
    gamma: Tensor
    nbeta: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> "Points":
        return Points(*map(change, self))


@dataclass(frozen=True)
class LocalPosterior:
    """U around the centre of each chain; γ and nβ are shared by the chains but for `points`."""

    loss: StackedLoss
    anchor: Stack  # w*, leaves (C, *shape), or (1, *shape) where all chains have the same
    layout: Layout
    nbeta: float
    gamma: float
    reference: Tensor  # what the loss needs of w* for L_B(w*), (C, …) or (1, …)
    centre_loss: Tensor  # (C,) L_n(w*) over all data, float64
    # G of SGLD, leaves that broadcast to (C, *shape); None: 1. The law does not depend on it, but
    # it goes with the centres.
    metric: Params | None = None
    points: Points | None = None  # then nβ and γ are NaN

    @classmethod
    @torch.no_grad()
    def around(
        cls,
        loss: StackedLoss,
        centres: Params,
        nbeta: float,
        gamma: float,
        chains: int = 1,
        metric: Params | None = None,
    ) -> "LocalPosterior":
        """`chains` chains around each of S centres, leaves (S, *shape): C = S·chains.

        What differs between centres in `loss` and `metric` has S entries too. Each centre is
        evaluated once, however many chains start there. Centres that lie in one buffer are not
        copied: they must not change.
        """
        centres = {name: leaf.detach() for name, leaf in centres.items()}
        reference, full = loss.reference(centres), loss.full_data(centres)
        layout = Layout(loss.shapes, len(full))
        own = cls(loss, layout.packed(centres), layout, nbeta, gamma, reference, full, metric)
        return own.repeat(chains)

    def at(self, points: Points) -> "LocalPosterior":
        """Around the one centre, a chain for each of the points."""
        several = self.repeat(len(points.nbeta))
        return replace(several, nbeta=nan, gamma=nan, points=points)

    def heated(self, temperature: float | Tensor) -> "LocalPosterior":
        """At temperature H, nβ/H for nβ; with `points` each at its own (C,), and Hε for ε too."""
        if self.points is None:
            return replace(self, nbeta=self.nbeta / float(temperature))
        epsilon, gamma, nbeta = self.points
        return replace(self, points=Points(epsilon * temperature, gamma, nbeta / temperature))

    def repeat(self, times: int) -> "LocalPosterior":
        """`times` chains in a row where there is one."""
        if times == 1:
            return self
        full = self.centre_loss.repeat_interleave(times)
        layout = Layout(self.loss.shapes, len(full))
        reference = self.reference
        return replace(
            self,
            loss=self.loss.repeat(times),
            anchor=self.anchor if self._shared else layout.pack(repeat(self.anchor.leaves, times)),
            layout=layout,
            reference=reference.repeat_interleave(times, 0) if len(reference) > 1 else reference,
            centre_loss=full,
            metric=self.metric and repeat(self.metric, times),
            points=self.points and self.points.map(lambda own: own.repeat_interleave(times)),
        )

    @property
    def chains(self) -> int:
        return self.layout.chains

    @property
    def nbetas(self) -> float | Tensor:
        """nβ, or each chain's (C,)."""
        return self.nbeta if self.points is None else self.points.nbeta

    @property
    def centre(self) -> Stack:
        """w* of every chain, leaves (C, *shape): a copy for each where they share it."""
        if len(self.anchor.flat) == self.layout.total:
            return self.anchor
        return self.layout.pack(repeat(self.anchor.leaves, self.chains))

    @property
    def _shared(self) -> bool:
        return len(self.anchor.flat) == self.layout.size

    def block(self, steps: int) -> LossBlock:
        """Room for the minibatches of `steps` steps."""
        like = {
            name: leaf.expand(self.chains, *leaf.shape[1:])
            for name, leaf in self.anchor.leaves.items()
        }
        return self.loss.block(like, self.reference, steps)

    def select(self, index: slice) -> "LocalPosterior":
        """The posterior of a part of the chains."""
        full = self.centre_loss[index]
        layout = Layout(self.loss.shapes, len(full))
        anchor = self.anchor
        if not self._shared:
            anchor = layout.pack(select(anchor.leaves, index))
        reference = self.reference[index] if len(self.reference) > 1 else self.reference
        return replace(
            self,
            loss=self.loss.select(index),
            anchor=anchor,
            layout=layout,
            reference=reference,
            centre_loss=full,
            metric=self.metric and select(self.metric, index),
            points=self.points and self.points.map(lambda own: own[index]),
        )

    def evaluate(self, batches: LossBlock, step: int, weights: Stack) -> Evaluation:
        """U and ∇U at `weights` on batch `step` of a loaded block."""
        slope = self.layout.stack(torch.zeros_like(weights.flat))
        batches.add_gradient(step, weights.leaves, slope.leaves, 1.0)
        flats = weights.flat.unsqueeze(0), slope.flat.unsqueeze(0)
        each = self.evaluate_each(batches, range(step, step + 1), *flats)
        loss, baseline, potential, grad = (values[0] for values in each)
        return Evaluation(loss, baseline, potential, self.layout.stack(grad))

    def evaluate_each(
        self, batches: LossBlock, steps: range, flat: Tensor, slopes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same at K stacks (K, total), on the K batches `steps`: (K, C) but ∇U, (K, total).

        slopes: ∇L_B there, where `add_gradient` was asked last; they become ∇U.
        """
        own, of_each = self.points, self._of_each
        here = slice(steps.start, steps.stop, steps.step)
        loss, baseline = batches.losses(here), batches.baselines(here)
        potential = self.nbetas * loss
        grads, places = self.layout.views(slopes), self.layout.views(flat)
        if own is None:
            slopes.mul_(self.nbeta)
        for name, leaf in grads.items():
            gap = places[name] - self.anchor.leaves[name]
            if own is None:
                leaf.add_(gap, alpha=self.gamma)
            else:
                leaf.mul_(of_each(own.nbeta, leaf)).addcmul_(gap, of_each(own.gamma, leaf))
            pull = gap.square_().reshape(*gap.shape[:2], -1).sum(2)
            potential = potential + (self.gamma if own is None else own.gamma) / 2 * pull
        return loss, baseline, potential, slopes

    def _of_each(self, values: Tensor, like: Tensor) -> Tensor:
        """(C,) -> a factor for each chain of a leaf (K, C, *shape)."""
        return values.to(like).view(-1, *[1] * (like.dim() - 2))
