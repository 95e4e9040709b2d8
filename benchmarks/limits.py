"""Measures the machine's limits: matrix products, memory bandwidth, normal random numbers.

    python -m benchmarks.limits

Prints one line of JSON: `gemm` (GFLOP/s in float32, by shape and threads), `memory` (GB/s by
operation and threads), `normals` (million float32 numbers a second, by generator, threads and
buffer). Every figure is the best of several repeats, since a limit is asked for.
"""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from benchmarks import harness, machine
from llc.products import LARGE, ONEDNN, TORCH

# batch, rows, inner, columns: (batch) products of (rows, inner) by (inner, columns)
GEMM_SHAPES = (
    (1, 512, 512, 512),
    (1, 1024, 1024, 1024),
    (1, 2048, 2048, 2048),
    (1, 500, 286, 885),  # W2, its largest layer over a minibatch
    (4, 500, 286, 885),  # ... of four chains
    (4, 259, 185, 185),  # W2, first layer times the Gram matrix of the batch
    (4, 885, 286, 185),  # W2, a prefix product
    (4, 185, 500, 185),  # W2, the Gram matrix itself
    (8, 10, 100, 10),  # W1, the Gram matrices of eight chains
    (8, 10, 10, 10),
    (64, 10, 10, 10),
)
BANDWIDTH_BYTES = 64 * 2**20
NORMAL_BUFFERS = (1_600, 160_000, 3_000_000)  # W1's noise for a step; for 100; W2's for a step


def best_seconds(operation: Callable[[], object], budget: float = 0.3) -> float:
    """Returns the least seconds that one call takes, over repeats that fill the budget."""
    operation()
    start = time.perf_counter()
    operation()
    calls = max(1, round(0.02 / max(time.perf_counter() - start, 1e-7)))
    best, end = float("inf"), time.perf_counter() + budget
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(calls):
            operation()
        best = min(best, (time.perf_counter() - start) / calls)
    return best


def gemm(threads: int) -> dict[str, float]:
    """Returns GFLOP/s of a product into a buffer, by shape.

    Through `torch.bmm` (MKL), and for large products through oneDNN.
    """
    torch.set_num_threads(threads)
    result = {}
    for b, m, k, n in GEMM_SHAPES:
        x, y, out = (torch.randn(shape) for shape in ((b, m, k), (b, k, n), (b, m, n)))
        name = f"{m}x{k} @ {k}x{n}" if b == 1 else f"{b} x ({m}x{k} @ {k}x{n})"
        kernels = {name: TORCH}
        if m * k * n >= LARGE:
            kernels[f"{name}, oneDNN"] = ONEDNN
        for label, kernel in kernels.items():
            seconds = best_seconds(lambda f=kernel.multiply, x=x, y=y, out=out: f(x, y, out))
            result[label] = 2e-9 * b * m * k * n / seconds
    return result


def memory(threads: int) -> dict[str, float]:
    """Returns GB/s, reads and writes counted, of `copy_` and `add_` on 64 MB."""
    torch.set_num_threads(threads)
    x, y = torch.zeros(BANDWIDTH_BYTES // 4), torch.ones(BANDWIDTH_BYTES // 4)
    moved = BANDWIDTH_BYTES * 1e-9
    return {
        "copy_": 2 * moved / best_seconds(lambda: x.copy_(y)),
        "add_": 3 * moved / best_seconds(lambda: x.add_(y)),
    }


def normal_generators(threads: int) -> dict[str, list[Callable[[np.ndarray], object]]]:
    """Returns for each generator one function per thread that fills a float32 buffer."""

    def torch_into() -> Callable[[np.ndarray], object]:
        generator = torch.Generator()
        return lambda buffer: torch.from_numpy(buffer).normal_(generator=generator)

    def torch_allocating() -> Callable[[np.ndarray], object]:
        generator = torch.Generator()
        return lambda buffer: torch.randn(buffer.size, generator=generator)

    def numpy_into(bits: type) -> Callable[[], Callable[[np.ndarray], object]]:
        def make() -> Callable[[np.ndarray], object]:
            generator = np.random.Generator(bits(0))
            return lambda buffer: generator.standard_normal(dtype=np.float32, out=buffer)

        return make

    makers = {"torch normal_": torch_into, "torch randn (allocating)": torch_allocating}
    for bits in (np.random.SFC64, np.random.PCG64, np.random.PCG64DXSM, np.random.Philox):
        makers[f"numpy {bits.__name__}"] = numpy_into(bits)
    return {name: [make() for _ in range(threads)] for name, make in makers.items()}


def normals(threads: int) -> dict[str, dict[str, float]]:
    """Returns million normals a second by generator and buffer size.

    With several Python threads each has its own generator and buffer, and fills it ten times a
    task: the rate multiplies where the generator lets go of the interpreter's lock.
    """
    torch.set_num_threads(1)
    result: dict[str, dict[str, float]] = {}
    with ThreadPoolExecutor(threads) as pool:
        for name, fills in normal_generators(threads).items():
            result[name] = {}
            for size in NORMAL_BUFFERS:
                buffers = [np.empty(size, np.float32) for _ in fills]

                def fill_ten(fill: Callable[[np.ndarray], object], buffer: np.ndarray) -> None:
                    for _ in range(10):
                        fill(buffer)

                def task(fills=fills, buffers=buffers) -> None:
                    if threads == 1:
                        fill_ten(fills[0], buffers[0])
                    else:
                        list(pool.map(fill_ten, fills, buffers))

                result[name][str(size)] = 1e-6 * 10 * threads * size / best_seconds(task)
    return result


def measure() -> dict[str, object]:
    """Returns all limits on one thread and on all available."""
    counts = sorted({1, harness.available_threads()})
    return {
        "machine": machine.describe(),
        "gemm": {str(t): gemm(t) for t in counts},
        "memory": {str(t): memory(t) for t in counts},
        "normals": {str(t): normals(t) for t in counts},
    }


if __name__ == "__main__":
    print(json.dumps(measure()))
