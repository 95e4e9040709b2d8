"""Inputs and teachers of the deep linear experiments; ranks are known by construction."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llc.models import dln
from llc.params import Params, to
from llc.theory import Coefficient, deep_linear, deep_linear_local, generic_partial_ranks


class Teacher(NamedTuple):
    """A deep linear network whose partial products' ranks are known, and its coefficients."""

    widths: tuple[int, ...]  # input first
    params: Params  # unstacked
    partial_ranks: NDArray[np.int64]  # [i, j]: rank of W_j ⋯ W_{i+1}

    @property
    def rank(self) -> int:
        """Rank of the whole product."""
        return int(self.partial_ranks[0, -1])

    def coefficient(self) -> Coefficient:
        """Aoyagi's λ and multiplicity: those of the most singular point with this product."""
        return deep_linear(self.widths, self.rank)

    def local_coefficient(self) -> float:
        """λ at these very weights."""
        return float(deep_linear_local(self.widths, self.partial_ranks))


def make_inputs(
    kind: str, num: int, dimension: int, generator: torch.Generator, dtype: torch.dtype
) -> Tensor:
    """(num, dimension): `normal` N(0, I), `uniform` on [−10, 10]^d, or in the `unit_ball`."""
    if kind == "uniform":
        return torch.rand(num, dimension, generator=generator, dtype=dtype).mul_(20).sub_(10)
    direction = torch.randn(num, dimension, generator=generator, dtype=dtype)
    if kind == "normal":
        return direction
    radius = torch.rand(num, 1, generator=generator, dtype=dtype).pow_(1 / dimension)
    return direction.mul_(radius / direction.norm(dim=1, keepdim=True))


def make_teacher(
    method: str,
    widths: Sequence[int],
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    *,
    rank: int | None = None,
    prop_rank_reduce: float = 0.0,
    mean: float = 0.0,
    std: float = 1.0,
) -> Teacher:
    """A teacher W_1 … W_L; `method` says how its layers come about.

    - `random`: the layer initialisation, full rank.
    - `zero`: all weights zero.
    - `rand_rank`: the initialisation; each layer, with probability `prop_rank_reduce`, truncated by
      SVD to a uniformly drawn lower rank.
    - `rand_rank_sv`: likewise, but rebuilt from random orthogonal factors and singular values
      N(`mean`, `std`²).
    - `aligned_rank`: every layer of rank `rank`, singular values uniform in [1, 1.3], the column
      space of each layer the row space of the next: the product has that rank, and λ at these
      weights equals Aoyagi's.
    """
    layers = dln.init(widths, generator, torch.float64)
    ranks = [min(layer.shape) for layer in layers.values()]
    if method == "zero":
        layers = {name: torch.zeros_like(layer) for name, layer in layers.items()}
        ranks = [0] * len(ranks)
    elif method in ("rand_rank", "rand_rank_sv"):
        for i, (name, layer) in enumerate(layers.items()):
            if torch.rand((), generator=generator) >= prop_rank_reduce:
                continue
            ranks[i] = int(torch.randint(ranks[i], (), generator=generator))
            if method == "rand_rank":
                layers[name] = _truncate(layer, ranks[i])
            else:
                values = torch.randn(ranks[i], generator=generator, dtype=torch.float64)
                layers[name] = _rebuild(layer.shape, mean + std * values, generator)
    elif method == "aligned_rank":
        assert rank is not None
        layers = _aligned(widths, rank, generator)
        ranks = [rank] * len(ranks)
    # Independent layers in general position: a product's rank is the least of its layers'.
    # Aligned layers share one rank, which their products keep.
    partial = generic_partial_ranks(ranks)
    return Teacher(tuple(widths), to(layers, "cpu", dtype), partial)


def _truncate(layer: Tensor, rank: int) -> Tensor:
    left, values, right = torch.linalg.svd(layer, full_matrices=False)
    return torch.matmul(left[:, :rank] * values[:rank], right[:rank])


def _rebuild(shape: Sequence[int], values: Tensor, generator: torch.Generator) -> Tensor:
    left, right = (_orthonormal(size, len(values), generator) for size in shape)
    return (left * values) @ right.mT


def _aligned(widths: Sequence[int], rank: int, generator: torch.Generator) -> Params:
    frames = [_orthonormal(width, rank, generator) for width in widths]
    layers = {}
    for i, name in enumerate(dln.shapes(widths)):
        values = 1 + 0.3 * torch.rand(rank, generator=generator, dtype=torch.float64)
        layers[name] = (frames[i + 1] * values) @ frames[i].mT
    return layers


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """(rows, columns) with orthonormal columns, uniformly distributed."""
    normal = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    frame, triangle = torch.linalg.qr(normal)
    return torch.mul(frame, triangle.diagonal().sign())
