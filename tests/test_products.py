import pytest
import torch

from llc import products as module
from llc.products import LARGE, ONEDNN, TORCH, products

C, M, K, N = 3, 40, 70, 50
LAYOUTS = ["plain", "transposed", "shared"]


def operand(layout, rows, columns, seed):
    source = torch.Generator().manual_seed(seed)
    if layout == "transposed":
        return torch.randn(C, columns, rows, generator=source).mT
    if layout == "shared":
        return torch.randn(1, rows, columns, generator=source).expand(C, -1, -1)
    return torch.randn(C, rows, columns, generator=source)


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch was built without oneDNN"
)
@pytest.mark.parametrize("right", LAYOUTS)
@pytest.mark.parametrize("left", LAYOUTS)
def test_both_libraries_multiply_alike(left, right):
    a, b = operand(left, M, K, 0), operand(right, K, N, 1)
    base = operand("plain", M, N, 2)
    for kernel in (TORCH, ONEDNN):
        out = torch.empty(C, M, N)
        assert kernel.multiply(a, b, out) is out
        torch.testing.assert_close(out, a @ b)
        kernel.add(base, a, b, out)
        torch.testing.assert_close(out, base + a @ b)
        kernel.accumulate(out, a, b, -0.5)
        torch.testing.assert_close(out, base + 0.5 * (a @ b))


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch was built without oneDNN"
)
def test_a_bias_row_is_added_to_every_row():
    a, b, bias = operand("plain", M, K, 0), operand("plain", K, N, 1), torch.randn(C, 1, N)
    for kernel in (TORCH, ONEDNN):
        out = kernel.add(bias, a, b, torch.empty(C, M, N))
        torch.testing.assert_close(out, bias + a @ b)


@pytest.mark.parametrize("fast", [True, False])
def test_onednn_serves_large_float32_on_the_cpu_alone(fast, monkeypatch):
    monkeypatch.setattr(module, "_onednn_is_faster", lambda: fast)
    wide, narrow = torch.empty(0), torch.empty(0, dtype=torch.float64)
    meta = torch.empty(0, device="meta")
    assert products(wide, LARGE // 100, 10, 10) is (ONEDNN if fast else TORCH)
    assert products(wide, LARGE // 100 - 1, 10, 10) is TORCH
    assert products(narrow, LARGE, 10, 10) is TORCH
    assert products(meta, LARGE, 10, 10) is TORCH
