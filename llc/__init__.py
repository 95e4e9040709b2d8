"""Estimate the local learning coefficient and check it against exact values."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llc.config import SamplerConfig
    from llc.grid_figures import grid_figure
    from llc.library import LLCEstimate, estimate_llc, grid

__version__ = "0.1.0"
__all__ = ["LLCEstimate", "SamplerConfig", "estimate_llc", "grid", "grid_figure"]

_HOMES = {
    "LLCEstimate": "llc.library",
    "SamplerConfig": "llc.config",
    "estimate_llc": "llc.library",
    "grid": "llc.library",
    "grid_figure": "llc.grid_figures",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for, and no torch before."""
    if name not in _HOMES:
        raise AttributeError(f"module 'llc' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
