"""The subtrees that trajectories of NUTS double by, for all chains at once (see `nuts`).

Leaves come in runs: energies, turns and the choice are looked at once a run. What a run adds beyond
the leaf that ends a chain's trajectory changes nothing and counts for nothing.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.linalg import vector_norm

from llc.models.base import block_steps
from llc.posterior import LocalPosterior
from llc.samplers.rows import RowData
from llc.samplers.trees import Stretch, grow, turns

DIVERGENCE = 1000.0  # energy error at which a trajectory is given up
RUN = 8  # leaves: a power of two
TINY = np.finfo(np.float64).tiny

# Numbers of the chains are kept on the host: numpy's operations on a few numbers take less than
# PyTorch's, and hold Python's lock, for which two threads of small operations wake each other.
Numbers = NDArray[np.float64]
Truths = NDArray[np.bool_]


class Best(NamedTuple):
    """The chosen leaf of every chain, and what is known there."""

    whole: Tensor  # (2, C, d) position and ∇U
    loss: Numbers  # (C,)
    potential: Numbers  # (C,)
    energy: Numbers  # (C,) H


class Subtree(NamedTuple):
    """What a doubling has built."""

    best: Best
    log_weight: Numbers  # (C,) log Σ e^{H_0 − H}
    stretch: Stretch
    end: Tensor  # (3, C, d) position, ∇U and velocity at its last leaf
    whole: Truths  # (C,) complete, without a turn or a divergence
    acceptance: Numbers  # (C,) Σ min(1, e^{H_0 − H})
    leaves: Numbers  # (C,) as many


class Doubling:
    """Builds subtrees, leaf by leaf."""

    def __init__(self, posterior: LocalPosterior) -> None:
        self.run = longest_run(posterior)
        self.data = RowData(posterior, self.run, apart=True)
        self.path = self.data.path(self.run)
        self.points = list(zip(self.path.positions, self.path.slopes, strict=True))
        # Velocities half a step before each leaf, and after the last.
        self.halves = self.data.ones.new_empty(self.run + 1, *self.data.shape)
        self.chains = torch.arange(posterior.chains, device=self.halves.device)

    def build(
        self, here: Tensor, steps: Tensor, energy: Numbers, uniform: Numbers, going: Truths
    ) -> tuple[Subtree, int]:
        """A leaf on from `here` (3, C, d) for each row of `uniform`, or fewer where no chain goes
        on; also how many gradients that took."""
        trees: list[Stretch] = []
        whole, tables, counted, used = here[:2], [], [], 0
        noise, key = gumbel(uniform), np.full_like(energy, -np.inf)
        index, each = np.zeros(len(energy), int), np.arange(len(energy))
        for first in range(0, len(noise), self.run):
            own = noise[first : first + self.run]
            length = len(own)
            used += self.leap(here, steps, length, going)
            here = self.path.whole[:, length - 1]
            loss, potential, kinetic = host(torch.stack(self.energies(length)))
            weight = energy - potential - kinetic
            fine = through = weight > -DIVERGENCE  # NaN compares false
            if length > 1:
                through = fine & ~host(turns(self.path.whole[2, :length]))
            after = going & np.logical_and.accumulate(through)
            before = np.concatenate([going[None], after[:-1]])
            weight = np.where(before & fine, weight, -np.inf)
            counted.append(before)
            tables.append(np.stack([loss, potential, weight]))
            keys = weight + own
            places = keys.argmax(0)
            better = keys[places, each] > key
            key = np.where(better, keys[places, each], key)
            index = np.where(better, first + places, index)
            new = self.path.whole[:2, self.put(places), self.chains]
            whole = torch.where(self.put(better).unsqueeze(1), new, whole)
            going = after[-1]
            turning = grow(trees, first // self.run, Stretch.of(self.path.whole[2, :length]))
            if turning is not None:
                going = going & ~host(turning)
            if not going.any():
                break
        table = np.concatenate(tables, 1)
        loss, potential, weight = table[:, index, each]
        return Subtree(
            Best(whole, loss, potential, energy - weight),
            np.logaddexp.reduce(table[2]),
            trees[-1],
            here,
            going,
            np.exp(np.minimum(table[2], 0)).sum(0),
            np.concatenate(counted).sum(0, dtype=float),
        ), used

    def leap(self, here: Tensor, steps: Tensor, length: int, going: Truths) -> int:
        """So many leapfrog steps on from `here` (3, C, d), on `path`; how many gradients they took.

        Half a step before leaf i and half a step after it velocities are uᵢ ± (ε/2)σ∇Uᵢ: kicks are
        whole, and uᵢ, the mean of both, is formed for all leaves at once.
        """
        some = going.tolist()
        position, slope, velocity = here
        torch.addcmul(velocity, steps, slope, value=-0.5, out=self.halves[0])
        half, used = self.halves[: length + 1].unbind(), 0
        for leaf, (weights, slopes) in enumerate(self.points[:length]):
            position = torch.addcmul(position, steps, half[leaf], out=weights.matrix)
            used += self.data.gradient_of(weights, slopes, leaf, some)
            torch.addcmul(half[leaf], steps, slopes.matrix, value=-1, out=half[leaf + 1])
        middle = self.path.whole[2, :length]
        torch.add(self.halves[:length], self.halves[1 : length + 1], out=middle).mul_(0.5)
        return used

    def energies(self, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """(K, C) L_n, U and ½‖u‖² of so many leaves."""
        positions, _, velocities = self.path.whole[:, :length]
        loss, potential = self.data.energies_at(self.path.positions[:length], positions)
        return loss, potential, vector_norm(velocities, dim=-1).square_().mul_(0.5)

    def put(self, values: NDArray[Any]) -> Tensor:
        """The same numbers where the chains are."""
        return torch.from_numpy(values).to(self.chains.device)


def host(values: Tensor) -> NDArray[Any]:
    """The same numbers as an array; on the CPU a view."""
    array: NDArray[Any] = values.cpu().numpy()
    return array


def chosen(which: Truths, there: Tensor, new: Best, old: Best) -> Best:
    """The leaves of `new` where `which` (C,), `there` as a tensor, else those of `old`."""
    whole = torch.where(there.unsqueeze(1), new.whole, old.whole)
    return Best(whole, *(np.where(which, a, b) for a, b in zip(new[1:], old[1:], strict=True)))


def gumbel(uniform: Numbers) -> Numbers:
    """−log(−log u)."""
    noise: Numbers = -np.log(-np.log(np.maximum(uniform, TINY)))
    return noise


def longest_run(posterior: LocalPosterior) -> int:
    """How many leaves are looked at together: a power of two, fewer where they take much room."""
    room = block_steps(posterior.loss, posterior.loss.num_examples, posterior.chains)
    return 1 << (min(RUN, room).bit_length() - 1)
