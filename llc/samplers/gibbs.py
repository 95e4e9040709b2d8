"""Gibbs sampling of deep linear networks, a layer at a time: exact, and without a step size.

Given the other layers, the posterior of W_ℓ is Gaussian: with A = W_L ⋯ W_{ℓ+1}, B = W_{ℓ−1} ⋯ W_1,
S = XᵀX/n = C Cᵀ and the teacher T,
    U = (nβ/o) ‖(A W_ℓ B − T) C‖² + (γ/2)‖W_ℓ − W_ℓ*‖² + const.
The singular value decompositions A = P a Uᵀ and B C = V b Qᵀ make its coordinates independent:
    (Uᵀ W_ℓ V)_ij ~ N(m_ij, 1/p_ij),   p_ij = c a_i² b_j² + γ,   c = 2nβ/o,
    m_ij = (c a_i b_j (Pᵀ T C Q)_ij + γ (Uᵀ W_ℓ* V)_ij) / p_ij,
and outside the spans of U and V W_ℓ ~ N(W_ℓ*, 1/γ). A sweep draws every layer in turn from its
conditional (Geman & Geman 1984). It crosses the flat directions of the loss, where gradient
samplers need steps in proportion to √(nβ/γ), in one sweep. Singular values come from A and BC
themselves, whose rank the narrowest layer on the way bounds; in AᵀA they would drown in rounding.

Float64 carries the products only so far: with γ small and many wide layers ∏‖W_ℓ‖ grows until its
rounding is seen in the loss. Where multiplying in the other order changes the loss by more than a
thousandth, it is NaN.

Chains from w* are slow to spread the small singular values over the layers where these are many and
wide. Cooled from a high temperature they have them spread from the start, and have forgotten w*:
where another point with the same product is more singular, that is what they read.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from llc.models.dln import LinearLoss
from llc.params import Stack
from llc.posterior import LocalPosterior
from llc.samplers.base import Block, Check, Info, Noise, Sampler

ROUNDING = 1e-3  # of the loss: how far two orders of multiplication may differ
LONGEST_BLOCK = 16  # sweeps: an interrupt waits for no more


class State(NamedTuple):
    """Carried from block to block."""

    position: Stack  # w_t, float64
    loss: Tensor  # (C,) L_n there
    step: int  # t


def gibbs(posterior: LocalPosterior, *, heat: float = 1.0, warm_up: int = 0) -> Sampler:
    """A sweep over the layers a step; needs a deep linear network with γ > 0.

    With a `heat` above 1 sweep t of the `warm_up` has the temperature T = heat^(1 − t/warm_up), and
    what it reports is L* + (L − L*)/T, so that nβ makes of it the λ̂ of that temperature.
    """
    loss = posterior.loss
    if not isinstance(loss, LinearLoss):
        raise ValueError("gibbs: samples deep linear networks only: use another sampler")
    if not posterior.gamma > 0:
        raise ValueError("gibbs: gamma=0: unseen directions have no distribution: give gamma > 0")
    layout, gamma, outputs = posterior.layout, posterior.gamma, loss.widths[-1]
    scale = 2 * posterior.nbeta / outputs
    centre = layout.stack(posterior.centre.flat.double())
    root = _root(loss.second_moment)
    goal = loss.teacher.double() @ root
    centre_loss = loss.full_data(centre.leaves)

    def init(position: Stack) -> State:
        own = layout.stack(position.flat.double().clone())
        return State(own, loss.full_data(own.leaves), 0)

    def advance(state: State, block: Block) -> tuple[State, Info]:
        losses, checks = [], {}
        nothing = torch.full_like(state.loss, torch.nan)
        for step, noise in enumerate(block.positions):
            state, loss_before = sweep(state, noise)
            losses.append(loss_before)
            noise.flat.copy_(state.position.flat)
            checks[step] = Check(torch.ones_like(nothing), nothing, nothing, nothing)
        values = torch.stack(losses)
        return state, Info(values, centre_loss.expand_as(values), checks)

    def sweep(state: State, noise: Stack) -> tuple[State, Tensor]:
        """Draw every layer in turn; also the loss before, NaN where it is not to be trusted."""
        position = layout.stack(state.position.flat.clone())
        layers, draws = list(position.leaves.values()), list(noise.leaves.values())
        lefts = _lefts(layers)
        again = loss_of(lefts[0].outer @ (lefts[0].inner @ (layers[0] @ root)))
        lost = posterior.nbeta * (again - state.loss).abs() > ROUNDING * (
            1 + posterior.nbeta * state.loss
        )
        right = Factor(root.expand(len(layers[0]), -1, -1), eye(layers[0], len(root)))
        own_scale = scale / temperature(state.step)
        for layer, draw, left, own in zip(
            layers, draws, lefts, centre.leaves.values(), strict=True
        ):
            told = left.outer.mT @ goal @ right.outer
            moved = conditional(left.inner, right.inner, told, own, draw.double(), own_scale)
            layer.copy_(own + moved)
            right = right.widen(layer)
        after = State(position, loss_of(right.whole()), state.step + 1)
        excess = (state.loss - centre_loss) / temperature(state.step - 1)
        return after, (centre_loss + excess).masked_fill(lost, torch.nan)

    def temperature(step: int) -> float:
        """Of the sweep after step t."""
        return heat ** (1 - step / warm_up) if 0 <= step < warm_up else 1.0

    def loss_of(product: Tensor) -> Tensor:
        """(C,) L_n where W_L ⋯ W_1 C is `product`."""
        return (product - goal).square().sum((1, 2)) / outputs

    def conditional(
        left: Tensor, right: Tensor, told: Tensor, own: Tensor, draw: Tensor, scale: float
    ) -> Tensor:
        """W_ℓ − W_ℓ* (C, rows, columns) given A and BC up to rotations, and standard normals."""
        p, a, u = torch.linalg.svd(left, full_matrices=False)
        v, b, q = torch.linalg.svd(right, full_matrices=False)
        weight = a.unsqueeze(2) * b.unsqueeze(1)  # a_i b_j
        precision = scale * weight.square() + gamma
        mean = scale * weight * (p.mT @ told @ q.mT - weight * (u @ own @ v)) / precision
        seen = mean + (u @ draw @ v) * (precision.rsqrt() - gamma**-0.5)
        result: Tensor = draw * gamma**-0.5 + u.mT @ seen @ v.mT
        return result

    return Sampler(Noise(), init, advance, longest_block=LONGEST_BLOCK, warm_up=warm_up)


class Factor(NamedTuple):
    """A product of layers as inner·outerᵀ or outer·inner, `outer` with orthonormal columns.

    The side that has passed a narrow layer is kept as narrow as that layer.
    """

    inner: Tensor
    outer: Tensor

    def widen(self, layer: Tensor) -> "Factor":
        """W·(inner outerᵀ)."""
        grown = layer @ self.inner
        if grown.shape[1] >= grown.shape[2]:
            return Factor(grown, self.outer)
        turned, rest = torch.linalg.qr(grown.mT)
        return Factor(rest.mT, self.outer @ turned)

    def whole(self) -> Tensor:
        """inner outerᵀ."""
        return self.inner @ self.outer.mT


def _lefts(layers: list[Tensor]) -> list[Factor]:
    """W_L ⋯ W_{ℓ+1} = outer·inner for every ℓ; the identity behind the last."""
    one = eye(layers[-1], layers[-1].shape[1])
    flipped = [Factor(one, one)]  # of the transposes, from the right
    for layer in reversed(layers[1:]):
        flipped.append(flipped[-1].widen(layer.mT))
    return [Factor(factor.inner.mT, factor.outer) for factor in reversed(flipped)]


def eye(like: Tensor, size: int) -> Tensor:
    """(C, size, size) identities."""
    return torch.eye(size, dtype=like.dtype, device=like.device).expand(len(like), -1, -1)


def _root(moment: Tensor) -> Tensor:
    """C with C Cᵀ = S, also where S has no full rank."""
    values, vectors = torch.linalg.eigh(moment)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root
