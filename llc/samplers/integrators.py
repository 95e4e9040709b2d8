"""Integrators for stacks of chains, in place: Hamilton's equations, and those at constant speed."""

from collections.abc import Callable

import torch
from torch import Tensor

from llc.params import Stack

Gradient = Callable[[Stack, Tensor], Tensor]

TINY = torch.finfo(torch.float64).tiny
MINIMAL_NORM = 0.1931833275037836  # λ of McLachlan 1995


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


def turn(velocity: Tensor, slope: Tensor, times: Tensor) -> Tensor:
    """u' = −(I − uuᵀ)∇U/(d − 1) for (C,) `times`, at a fixed ∇U; (C,) the kinetic energy gained.

    With e = −∇U/|∇U| and δ = t|∇U|/(d − 1):
        u ← (u + (sinh δ + (e·u)(cosh δ − 1)) e)/(cosh δ + (e·u) sinh δ),
    a unit vector again; −∇U does the work (d − 1) log(cosh δ + (e·u) sinh δ), which is also minus
    the log of the volume that the turn leaves (Steeg & Galstyan 2021; Robnik et al. 2023).
    velocity, slope: (C, d).
    """
    others = slope.shape[1] - 1
    size = torch.linalg.vector_norm(slope, dim=1).clamp_(min=TINY)
    delta = size * (times / others)
    along = torch.linalg.vecdot(velocity, slope).div_(size).neg_()
    sinh, cosh = delta.sinh(), delta.cosh()
    shrunk = torch.addcmul(cosh, along, sinh)
    pull = torch.addcmul(sinh, along, cosh - 1).div_(size)
    velocity.addcmul_(pull.unsqueeze(1), slope, value=-1).div_(shrunk.unsqueeze(1))
    return shrunk.log_().mul_(others)


def minimal_norm(
    gradient: Callable[[], object],
    position: Tensor,
    velocity: Tensor,
    slope: Tensor,
    steps: Tensor,
) -> Tensor:
    """One step of q' = u, u' = −(I − uuᵀ)∇U(q)/(d − 1), in place: two gradients.

    Turns for λε, (1 − 2λ)ε and λε with drifts of ε/2 between them (McLachlan 1995; Robnik et al.
    2023): reversible, |u| stays one, and its energy error over a fixed time is of order ε².
    `gradient()` puts ∇U at `position` into `slope`, which holds it on arrival and afterwards;
    position, velocity, slope (C, d); `steps` (C,) ε: a chain whose ε is zero stands still.
    Returns the kinetic energy gained (C,).
    """
    half, outer = (0.5 * steps).unsqueeze(1), MINIMAL_NORM * steps
    gained = turn(velocity, slope, outer)
    position.addcmul_(half, velocity)
    gradient()
    gained += turn(velocity, slope, steps - 2 * outer)
    position.addcmul_(half, velocity)
    gradient()
    gained += turn(velocity, slope, outer)
    return gained
