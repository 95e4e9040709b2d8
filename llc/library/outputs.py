"""What a model returns: the tensors in it, and whether two calls returned the same."""

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

ALIKE = 1e-3  # relative difference that rounding does not explain
HOLDERS = (Tensor, Mapping, tuple, list)


def tensors(outputs: Any) -> Iterator[Tensor]:
    """The tensors in whatever a model returns, attributes of an object of its own included."""
    if isinstance(outputs, Tensor):
        yield outputs
        return
    parts = outputs if isinstance(outputs, tuple | list) else _named(outputs).values()
    for part in parts:
        yield from tensors(part)


def mapped(function: Callable[[Tensor], Tensor], outputs: Any) -> Any:
    """The same outputs with every tensor changed."""

    def changed(value: Any) -> Any:
        if isinstance(value, Tensor):
            return function(value)
        named = _named(value)
        if not named or isinstance(value, Mapping):
            return value
        other = copy(value)
        vars(other).update({name: tree_map(changed, part) for name, part in named.items()})
        return other

    return tree_map(changed, outputs)


def same(one: Any, other: Any) -> bool:
    """Whether two calls returned the same but for rounding."""
    ours, theirs = [*tensors(one)], [*tensors(other)]
    return len(ours) == len(theirs) and all(map(alike, ours, theirs))


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same but for rounding."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    finite = one[one.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(one, other, rtol=ALIKE, atol=ALIKE * scale, equal_nan=True)


def _named(value: Any) -> Mapping[str, Any]:
    """What may hold tensors in a mapping, or in an object such as a dataclass."""
    if isinstance(value, Mapping):
        return value
    own = getattr(value, "__dict__", {})
    return {name: part for name, part in own.items() if isinstance(part, HOLDERS)}
