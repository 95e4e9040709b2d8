"""`torch.compile` for gradients, and what came of it."""

import warnings
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

WORTH = 60.0  # seconds of gradients below which compiling, 5 to 80 s on a CPU, is not tried
LENGTH = 200  # characters of a reason; compilers talk a lot


class Compiling:
    """Compiles functions for the shapes that they are called with; one that fails runs as it is."""

    def __init__(self) -> None:
        self.seconds = 0.0  # until the first results of every shape, the calls themselves included
        self.trouble = ""  # why something is not compiled

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, compiled as a whole when first called with new shapes."""
        compiled: Callable[..., Any] = torch.compile(function, fullgraph=True, dynamic=False)
        known: dict[Any, Callable[..., Any]] = {}

        def run(*arguments: Any) -> Any:
            leaves = tree_flatten(arguments)[0]
            shapes = tuple(leaf.shape for leaf in leaves if isinstance(leaf, Tensor))
            if shapes in known:
                return known[shapes](*arguments)
            started = perf_counter()
            try:
                with warnings.catch_warnings(action="ignore"):  # the compiler's own
                    result = compiled(*arguments)
                known[shapes] = compiled
            except Exception as error:  # no compiler, a graph break, whatever a model does
                self.trouble = self.trouble or _reason(error)
                known[shapes] = function
                result = function(*arguments)
            self.seconds += perf_counter() - started
            return result

        return run


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:  # what the compiler wraps
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join([f"{type(error).__name__}:", *lines])[:LENGTH]
