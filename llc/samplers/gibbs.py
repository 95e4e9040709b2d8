"""Gibbs sampling of deep linear networks, a layer at a time: exact, and without a step size.

Given the other layers, the posterior of W_ℓ is Gaussian: with A = W_L ⋯ W_{ℓ+1}, B = W_{ℓ−1} ⋯ W_1,
S = XᵀX/n = C Cᵀ and the teacher T,
    U = (nβ/o) ‖(A W_ℓ B − T) C‖² + (γ/2)‖W_ℓ − W_ℓ*‖² + const.
The singular value decompositions A = P a Uᵀ and B C = V b Qᵀ make its coordinates independent:
    (Uᵀ W_ℓ V)_ij ~ N(m_ij, 1/p_ij),   p_ij = c a_i² b_j² + γ,   c = 2nβ/o,
    m_ij = (c a_i b_j (Pᵀ T C Q)_ij + γ (Uᵀ W_ℓ* V)_ij) / p_ij,
and a sweep draws every layer in turn from its conditional (Geman & Geman 1984). It crosses the flat
directions of the loss, where gradient samplers need steps in proportion to √(nβ/γ), in one sweep.
Singular values come from A and BC themselves: in AᵀA their squares would drown in rounding.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from llc.models.dln import LinearLoss
from llc.params import Stack
from llc.posterior import LocalPosterior
from llc.samplers.base import Block, Check, Info, Noise, Sampler

LONGEST_BLOCK = 16  # sweeps: an interrupt waits for no more


class State(NamedTuple):
    """Carried from block to block."""

    position: Stack  # w_t, float64
    loss: Tensor  # (C,) L_n there


def gibbs(posterior: LocalPosterior) -> Sampler:
    """A sweep over the layers a step; needs a deep linear network with γ > 0."""
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
        return State(own, loss.full_data(own.leaves))

    def advance(state: State, block: Block) -> tuple[State, Info]:
        losses, checks = [], {}
        nothing = torch.full_like(state.loss, torch.nan)
        for step, noise in enumerate(block.positions):
            losses.append(state.loss)
            state = sweep(layout.stack(state.position.flat.clone()), noise)
            noise.flat.copy_(state.position.flat)
            checks[step] = Check(torch.ones_like(nothing), nothing, nothing, nothing)
        values = torch.stack(losses)
        return state, Info(values, centre_loss.expand_as(values), checks)

    def sweep(position: Stack, noise: Stack) -> State:
        """Draw every layer of `position`, in place."""
        layers, draws = list(position.leaves.values()), list(noise.leaves.values())
        after = _after(layers)
        before = root.expand(len(layers[0]), -1, -1)  # W_{ℓ−1} ⋯ W_1 C
        for layer, draw, left, own in zip(
            layers, draws, after, centre.leaves.values(), strict=True
        ):
            layer.copy_(conditional(left, before, own, draw.double()))
            before = layer @ before
        return State(position, (before - goal).square().sum((1, 2)) / outputs)

    def conditional(left: Tensor, right: Tensor, own: Tensor, draw: Tensor) -> Tensor:
        """W_ℓ (C, rows, columns) given A, B C, W_ℓ* and standard normals."""
        p, a, u = torch.linalg.svd(left, full_matrices=True)
        v, b, q = torch.linalg.svd(right, full_matrices=True)
        seen = slice(a.shape[1]), slice(b.shape[1])
        weight = a.unsqueeze(2) * b.unsqueeze(1)  # a_i b_j
        precision = torch.full_like(draw, gamma)
        precision[:, *seen].addcmul_(weight, weight, value=scale)
        mean = gamma * (u @ own @ v)
        told = p[:, :, seen[0]].mT @ goal @ q[:, seen[1]].mT
        mean[:, *seen].addcmul_(weight, told, value=scale)
        result: Tensor = u.mT @ (mean / precision + draw / precision.sqrt()) @ v.mT
        return result

    return Sampler(Noise(), init, advance, longest_block=LONGEST_BLOCK)


def _after(layers: list[Tensor]) -> list[Tensor]:
    """W_L ⋯ W_{ℓ+1} for every ℓ; the identity behind the last."""
    outputs = layers[-1].shape[1]
    products = [
        torch.eye(outputs, dtype=torch.float64, device=layers[0].device).expand(
            len(layers[0]), -1, -1
        )
    ]
    for layer in reversed(layers[1:]):
        products.append(products[-1] @ layer)
    return products[::-1]


def _root(moment: Tensor) -> Tensor:
    """C with C Cᵀ = S, also where S has no full rank."""
    values, vectors = torch.linalg.eigh(moment)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root
