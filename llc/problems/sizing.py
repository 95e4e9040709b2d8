"""Widths of networks that hit a number of parameters."""

from collections.abc import Callable
from itertools import product

from llc.config import ConfigError

Widths = tuple[int, ...]


def fit(
    target: int,
    free: int,
    widths: Callable[[Widths], Widths],
    parameters: Callable[[Widths], int],
) -> Widths:
    """The widths whose number of parameters is nearest to `target`.

    `free` sizes may be chosen, all of them equal or one unit apart: 2^`free` candidates, the first
    in order where several are as near. With f sizes around s the sets of candidates step over
    ~1/s of the parameters at a time, so that the miss is well below that.

    widths: (s_1, …, s_free) -> the widths of all layers; parameters: their number of parameters.
    Raises: ConfigError where even all sizes 1 have more parameters than `target`.
    """

    def count(sizes: Widths) -> int:
        return parameters(widths(sizes))

    least = count((1,) * free)
    if target < least:
        raise ConfigError(
            f"target_params={target}: the smallest such network has {least} parameters: ask for "
            f"{least} or more"
        )
    size = 1
    while count((size + 1,) * free) <= target:
        size += 1
    candidates = product((size, size + 1), repeat=free)
    return widths(min(candidates, key=lambda sizes: (abs(count(sizes) - target), sizes)))
