"""What users call data: whether it is arrays, how many examples they hold, and its name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_leaves

from llc.library.tokens import has_tokens


def whole(data: Any) -> bool:
    """Whether it is all examples at once: arrays, or a pair of what the arguments are made of."""
    if not isinstance(data, tuple | list) or not data:
        return False
    pair = isinstance(data, tuple) and len(data) == 2 and not has_tokens(data[1])
    return all(map(is_array, tree_leaves(data) if pair else data))


def check_counts(data: Any) -> int:
    """The number of examples in arrays; raises ValueError where it is not the same in all."""
    counts = {leaf.shape[0] if leaf.ndim else 1 for leaf in tree_leaves(data)}
    if len(counts) > 1:
        raise ValueError(
            f"data: inputs and targets have {' and '.join(map(str, sorted(counts)))} examples: "
            "give one target an input"
        )
    return int(counts.pop())


def is_array(value: Any) -> bool:
    """Whether it is a tensor, or one of NumPy's."""
    return isinstance(value, Tensor | np.ndarray)


def words(value: Any) -> str:
    """What `value` is, in a few words."""
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with keys {', '.join(map(repr, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    return f"{type(value).__name__} object"
