"""What every sampler offers, and what it consumes.

A sampler advances a stack of chains by blocks of K steps. The block brings everything random or
gathered, prepared in one go; the sampler only computes, so that a step is a handful of operations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llc.models.base import BLOCK_STEPS, LossBlock
from llc.params import Stack


class Block(NamedTuple):
    """What K steps consume."""

    positions: list[Stack]  # K stacks, filled with noise; the sampler turns them into w_1 … w_K
    flat: Tensor  # (K, total), the same numbers
    batches: LossBlock  # K minibatches a chain
    uniforms: Tensor | None = None  # (K, C, m) in [0, 1), where the sampler asks for m a step


class Noise(NamedTuple):
    """The law of the noise a block arrives with: pull·w* + scale·ξ, ξ ~ N(0, I)."""

    anchor: Tensor | None = None  # w*, flat, of C sets or of one that they share; None: no pull
    scale: float = 1.0
    pull: float = 0.0


class Check(NamedTuple):
    """A closer look at one step; NaN where a number is undefined for a sampler."""

    acceptance: Tensor  # (C,) Metropolis probability of the step
    # (C,) what (ε/8)· is the step-size bias of λ̂, on average: ‖∇U_B(w_t)‖² for SGLD, at the
    # position the step started from. Samplers that derive theirs say so; NaN: none, or not known.
    squared_gradient: Tensor
    energy: Tensor  # (C,) the energy a transition conserves, at its end
    step_size: Tensor  # (C,) of the transition
    # (C,) mean ΔE² of the steps since the last look, over what the step size is tuned to; None: it
    # is not tuned to that, or not yet.
    energy_error: Tensor | None = None


def due(step: int, count: int, period: int | None) -> range:
    """Which of the `count` steps after `step` are looked at more closely: every `period`-th."""
    return range(0) if period is None else range(-step % period, count, period)


def bias_check(squared_gradient: Tensor, epsilon: float) -> Check:
    """A look at the step-size bias alone, by samplers without acceptance or energy."""
    nothing = torch.full_like(squared_gradient, torch.nan)
    return Check(nothing, squared_gradient, nothing, torch.full_like(nothing, epsilon))


class Info(NamedTuple):
    """What K steps report; every sampler fills the same fields."""

    loss: Tensor  # (K, C) L_B(w_t) at the position each step started from
    baseline: Tensor  # (K, C) L_B(w*) on the same examples
    checks: dict[int, Check]  # step within the block -> a closer look at it
    gradients: float | None = None  # evaluated in the K steps, over all chains; None: one a step


class Sampler(NamedTuple):
    """`init` makes the carried state, `advance` turns (state, block) into (state, info).

    A state is a named tuple of tensors, numbers and such tuples; its first field is `position`, the
    stack w_t, in the precision that the sampler moves it in.
    """

    noise: Noise
    init: Callable[[Stack], Any]
    advance: Callable[[Any, Block], tuple[Any, Info]]
    uniforms: int = 0  # uniform numbers a step and chain
    longest_block: int = BLOCK_STEPS  # steps at once, at most: an interrupt waits for them
    warm_up: int = 0  # steps during which it adapts itself: no draws of the posterior
