"""Products of stacked matrices: by the library that multiplies them fastest here, in what order.

PyTorch multiplies on the CPU through MKL, which on AMD processors leaves the AVX-512 units unused.
oneDNN, which PyTorch carries too, uses them: for large float32 matrices about twice as fast, chain
by chain. The choice depends on processor, type and shape alone, never on a measurement, so that a
run can be repeated to the last bit.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

LARGE = 10**6  # multiplications per matrix product from which on oneDNN is ahead


class Products(NamedTuple):
    """Products of (C, m, k) by (C, k, n)."""

    multiply: Callable[[Tensor, Tensor, Tensor], Tensor]  # (A, B, out): out ← A B
    add: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (D, A, B, out): out ← D + A B
    accumulate: Callable[[Tensor, Tensor, Tensor, float], None]  # (out, A, B, s): out += s A B


def products(like: Tensor, rows: int, inner: int, columns: int) -> Products:
    """How to multiply (C, rows, inner) by (C, inner, columns), both like `like`."""
    return ONEDNN if is_large(like, rows, inner, columns) else TORCH


def is_large(like: Tensor, rows: int, inner: int, columns: int) -> bool:
    """Whether such a product is one for oneDNN."""
    usable = like.device.type == "cpu" and like.dtype == torch.float32
    return rows * inner * columns >= LARGE and usable and _onednn_is_faster()


@cache
def _onednn_is_faster() -> bool:
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    description = Path("/proc/cpuinfo")
    return description.exists() and "AuthenticAMD" in description.read_text(encoding="utf-8")


def _torch_multiply(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    return torch.bmm(left, right, out=out)


def _torch_add(base: Tensor, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    return torch.baddbmm(base, left, right, out=out)


def _torch_accumulate(out: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    out.baddbmm_(left, right, alpha=scale)


def _onednn(left: Tensor, right: Tensor) -> Tensor:
    """One product: PyTorch's own entry to oneDNN's inner product, x Wᵀ."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.mT, None, "none", [], "")
    return product


def _onednn_multiply(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    for one, a, b in zip(out, left, right, strict=True):
        one.copy_(_onednn(a, b))
    return out


def _onednn_add(base: Tensor, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    for one, d, a, b in zip(out, base, left, right, strict=True):
        torch.add(d, _onednn(a, b), out=one)
    return out


def _onednn_accumulate(out: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    for one, a, b in zip(out, left, right, strict=True):
        one.add_(_onednn(a, b), alpha=scale)


TORCH = Products(_torch_multiply, _torch_add, _torch_accumulate)
ONEDNN = Products(_onednn_multiply, _onednn_add, _onednn_accumulate)


class Product(NamedTuple):
    """One product of two neighbours in W_L ⋯ W_1.

    Slots 0 … L−1 hold W_1 … W_L, later ones the products in turn.
    """

    left: int  # slot of the factor (rows, inner)
    right: int  # slot of the factor (inner, columns)
    result: int
    rows: int
    inner: int
    columns: int


def cheapest_order(widths: Sequence[int]) -> list[Product]:
    """The L − 1 products behind W_L ⋯ W_1 in the order that needs the fewest operations.

    The classic dynamic programme over spans of layers, O(L³). Going back through the same products
    with gradients costs twice as much again, so that the same order is the best for both.
    """
    layers = len(widths) - 1
    cost = dict.fromkeys(((i, i + 1) for i in range(layers)), 0)
    split: dict[tuple[int, int], int] = {}
    for length in range(2, layers + 1):
        for low in range(layers - length + 1):
            high = low + length
            cost[low, high], split[low, high] = min(
                (cost[low, k] + cost[k, high] + widths[low] * widths[k] * widths[high], k)
                for k in range(low + 1, high)
            )
    order: list[Product] = []

    def visit(low: int, high: int) -> int:
        """The slot of W_high ⋯ W_{low+1}, after everything it needs."""
        if high - low == 1:
            return low
        mid = split[low, high]
        right, left = visit(low, mid), visit(mid, high)
        slot = layers + len(order)
        order.append(Product(left, right, slot, widths[high], widths[mid], widths[low]))
        return slot

    visit(0, layers)
    return order
