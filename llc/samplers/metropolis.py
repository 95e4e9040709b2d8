"""What the samplers with an accept step share: where a chain stands, and the accept step."""

from typing import NamedTuple

import torch
from torch import Tensor

from llc.params import Layout, Stack
from llc.samplers.full_data import FullData


class Place(NamedTuple):
    """Where chains stand, and what is known there; flat (total,) and (C,), float64."""

    position: Stack
    slope: Tensor  # ∇U, flat
    loss: Tensor  # (C,) L_n
    potential: Tensor  # (C,) U

    @classmethod
    def at(cls, full: FullData, position: Stack) -> "Place":
        """A copy of `position` in float64, evaluated."""
        own = full.layout.stack(position.flat.double().clone())
        slope = full.gradient(own, torch.empty_like(own.flat))
        return cls.seen(full, own, slope)

    @classmethod
    def seen(cls, full: FullData, position: Stack, slope: Tensor) -> "Place":
        """At a position whose gradient has just been taken."""
        loss = full.loss(position)
        return cls(position, slope, loss, full.potential(position, loss))


def accept(
    layout: Layout, log_ratio: Tensor, uniform: Tensor, new: Place, old: Place
) -> tuple[Place, Tensor]:
    """The place each chain goes on from, made of `new` in place, and min(1, eʳ) (C,).

    A chain moves where log u < r (Metropolis et al. 1953); where r is NaN (an energy that is not
    finite) it stays, with probability 0 of having moved.
    """
    log_ratio = log_ratio.nan_to_num(nan=-torch.inf)
    moves = uniform.log() < log_ratio
    layout.choose(moves, new.position.flat, old.position.flat)
    layout.choose(moves, new.slope, old.slope)
    loss = torch.where(moves, new.loss, old.loss)
    potential = torch.where(moves, new.potential, old.potential)
    return Place(new.position, new.slope, loss, potential), log_ratio.clamp(max=0).exp()
