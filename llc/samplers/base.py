"""What every sampler offers, and what it consumes.

A sampler advances a stack of chains by blocks of K steps. The block brings everything random or
gathered, prepared in one go; the sampler only computes, so that a step is a handful of operations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from llc.models.base import LossBlock
from llc.params import Stack


class Block(NamedTuple):
    """What K steps consume."""

    positions: list[Stack]  # K stacks, filled with noise; the sampler turns them into w_1 … w_K
    flat: Tensor  # (K, total), the same numbers
    batches: LossBlock  # K minibatches a chain


class Noise(NamedTuple):
    """The law of the noise a block arrives with: shift + scale·ξ, ξ ~ N(0, I)."""

    shift: Tensor | None  # flat, (total,)
    scale: float


class Check(NamedTuple):
    """A closer look at one step."""

    acceptance: Tensor  # (C,) Metropolis probability of the step
    squared_gradient: Tensor  # (C,) ‖∇U_B(w_t)‖² at the position it started from


class Info(NamedTuple):
    """What K steps report; every sampler fills the same fields."""

    loss: Tensor  # (K, C) L_B(w_t) at the position each step started from
    baseline: Tensor  # (K, C) L_B(w*) on the same examples
    checks: dict[int, Check]  # step within the block -> a closer look at it


class Sampler(NamedTuple):
    """`init` makes the carried state, `advance` turns (state, block) into (state, info).

    A state is a named tuple of tensors and numbers; its first field is `position`, the stack w_t.
    """

    noise: Noise
    init: Callable[[Stack], Any]
    advance: Callable[[Any, Block], tuple[Any, Info]]
