"""Integrators of Hamilton's equations for stacks of chains, on flat float64 buffers."""

from collections.abc import Callable

import torch
from torch import Tensor

from llc.params import Stack

Gradient = Callable[[Stack, Tensor], Tensor]


def leapfrog(
    gradient: Gradient,
    position: Stack,
    momentum: Tensor,
    slope: Tensor,
    step: Tensor,
    drift: Tensor,
) -> None:
    """One step of q' = M⁻¹p, p' = −∇U(q), in place.

        p ← p − (ε/2)∇U(q),   q ← q + ε M⁻¹p,   p ← p − (ε/2)∇U(q)
    (velocity Verlet; Neal 2011, "MCMC using Hamiltonian dynamics"): reversible, keeps volume, its
    energy error of order ε² over a fixed time. `slope` holds ∇U(q) on arrival and afterwards;
    `step` is ε and `drift` ε M⁻¹, both (total,). A chain whose ε is zero stands still.
    """
    momentum.addcmul_(step, slope, value=-0.5)
    position.flat.addcmul_(drift, momentum)
    gradient(position, slope)
    momentum.addcmul_(step, slope, value=-0.5)


def kinetic(layout_sums: Callable[[Tensor], Tensor], momentum: Tensor, inverse: Tensor) -> Tensor:
    """(C,) ½ pᵀM⁻¹p for the diagonal `inverse` = M⁻¹ (total,)."""
    return 0.5 * layout_sums(torch.square(momentum).mul_(inverse))
