"""torchvision, for its data sets and models: the one place that imports it."""

from functools import cache
from typing import Any

import torch


@cache
def torchvision() -> Any:
    """The module, imported at the first call: what needs no images need not wait for it.

    The compiled operators of a wheel built for a CUDA torch do not load beside a CPU-only one. The
    import then fails at an operator that is not even declared; once that is made up for, everything
    in Python works.
    """
    try:
        import torchvision
    except RuntimeError:
        _declare_operators()
        import torchvision
    return torchvision


@cache  # which keeps the library: its declarations would go with it
def _declare_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
