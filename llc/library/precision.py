"""The precision that chains are sampled in, and the one that the model runs in."""

import torch
from torch import Tensor

from llc.library.network import HALF, Network


def home_and_precision(
    network: Network, dtype: torch.dtype | None
) -> tuple[torch.device, torch.dtype]:
    """The device of the model, and the precision to sample in.

    Raises: ValueError for a model on several devices, or in a precision too low to sample in.
    """
    leaves = dict(network.module.named_parameters())
    home = {leaf.device for leaf in leaves.values()}
    if len(home) > 1:
        raise ValueError(
            f"model: is spread over {', '.join(map(str, home))}: move it to one device"
        )
    if dtype is not None and dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype}: must be torch.float32 or torch.float64")
    own = {leaves[name].dtype for name in network.free}
    if dtype is None and own & set(HALF):
        raise ValueError(
            f"model: has parameters of {', '.join(map(str, own))}, too coarse for a chain's steps: "
            "use model.float() or dtype=torch.float32, and autocast=torch.bfloat16 to run it in "
            "half precision"
        )
    if dtype is None and len(own) > 1:
        raise ValueError(
            f"model: has parameters of {' and '.join(map(str, own))}: give dtype=torch.float32"
        )
    return home.pop(), dtype or own.pop()


def check_autocast(
    autocast: torch.dtype | None, precision: torch.dtype, devices: list[torch.device]
) -> None:
    """Raise ValueError for an `autocast` that would do nothing, or cannot be had."""
    if autocast is None:
        return
    if autocast not in HALF:
        raise ValueError(f"autocast={autocast}: must be torch.bfloat16 or torch.float16")
    if precision != torch.float32:
        raise ValueError(
            f"autocast={autocast}: casts from float32, and chains are sampled in {precision}: give "
            "dtype=torch.float32, or leave autocast out"
        )
    for device in devices:
        if not _casts(device, autocast):
            raise ValueError(
                f"autocast={autocast}: PyTorch cannot run it on {device} here: leave it out, or "
                "use torch.bfloat16"
            )


def _casts(device: torch.device, autocast: torch.dtype) -> bool:
    """Whether a matrix product runs, forward and backward, in that precision."""
    try:
        with torch.enable_grad(), torch.autocast(device.type, autocast):
            square = torch.eye(2, device=device, requires_grad=True)
            product: Tensor = square @ square
            torch.autograd.grad(product.sum(), square)
    except (RuntimeError, ValueError, UserWarning):
        return False
    return product.dtype == autocast
