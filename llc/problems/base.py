"""What a benchmark problem is, and what every one is made from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from llc.config import ConfigError
from llc.data import make_inputs
from llc.models.base import StackedLoss
from llc.params import Params, count
from llc.streams import Stream, generator
from llc.theory import Coefficient

Exact = Callable[[float, float], float]


@dataclass(frozen=True)
class Problem:
    """A loss bound to its data, a parameter w* where λ is asked for, and what is known about it.

    Where `known` is None the value to compare with is a long float64 HMC run on this very problem:
    `loss` serves full-data gradients in the precision it was made in, float64 by default, and the
    same seed gives the same data and w* in every precision, to rounding.
    """

    name: str
    description: str  # in words, with the sizes that were chosen
    loss: StackedLoss
    centre: Params  # w*, one set: leaves (*shape)
    known: Coefficient | None  # λ and multiplicity at w*
    reason: str  # what `known` rests on, or why it is None
    exact: Exact | None = None  # (nβ, γ) -> E[nβ(L − L(w*))] at this very n, where computable

    @property
    def num_params(self) -> int:
        """Parameters of one set."""
        return count(self.loss.shapes)

    @property
    def num_training_data(self) -> int:
        """n."""
        return self.loss.num_examples


Plan = Callable[[], Problem]  # all that was asked for is checked; calling it does the work


class Setting(NamedTuple):
    """What every problem is asked for."""

    target_params: int | None  # None: the problem's own size
    num_training_data: int
    seed: int
    dtype: torch.dtype
    device: torch.device

    def put(self, tensor: Tensor) -> Tensor:
        """`tensor` where, and in the precision in which, the problem is wanted."""
        return tensor.to(self.device, self.dtype)

    def inputs(self, dimension: int, kind: str = "normal") -> Tensor:
        """(n, `dimension`) as `llc.data.make_inputs` draws them, in float64 on the CPU."""
        source = self.generator("data")
        return make_inputs(kind, self.num_training_data, dimension, source, torch.float64)

    def generator(self, purpose: str) -> torch.Generator:
        """A fresh generator on the CPU, as `llc.streams` names them."""
        return generator(Stream(self.seed), purpose)


def whole(name: str, value: object, least: int) -> int:
    """`value`, an int of at least `least`; else a ConfigError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name}={value!r}: must be a whole number, {least} or more")
    return value


def fixed_size(setting: Setting, size: int, which: str) -> None:
    """Raise ConfigError when another number of parameters is asked for than `size`."""
    if setting.target_params not in (None, size):
        raise ConfigError(
            f"target_params={setting.target_params}: {which} has {size} parameters: leave it "
            "at None"
        )
