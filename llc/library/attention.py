"""Attention that is the same function with gradients and without."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Switch off PyTorch's fast path for transformers in inference, as long as this lasts.

    It returns zeros where keys are masked, and the layers themselves do not: L(w*), which needs no
    gradient, would be that of another function than L(w).
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
