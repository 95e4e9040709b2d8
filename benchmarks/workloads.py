"""The three benchmark problems W1, W2 and W3 as plain data.

Every implementation samples the same local posterior around the teacher's parameter w*:

    U(w) = n*beta * L_n(w) + (gamma/2) * |w - w*|^2,    beta = 1 / log n,

with L_n the mean squared error over examples and outputs, inputs uniform on [-10, 10]^d and
targets from the teacher without noise. The SGLD step is w' = w - (epsilon/2) * grad U_batch(w)
+ sqrt(epsilon) * normal noise, and each chain draws a minibatch of its own.

Needs NumPy alone, so that a peer's environment can import it.
"""

import math
from dataclasses import dataclass

import numpy as np

DATA_SEED = 20240607


@dataclass(frozen=True)
class Workload:
    """One benchmark problem; `widths` starts with the input dimension."""

    name: str
    widths: tuple[int, ...]
    bias: bool  # biases, and ReLU between the layers
    num_data: int
    batch_size: int
    epsilon: float
    gamma: float
    chains: tuple[int, ...]  # the numbers of chains that are timed

    @property
    def beta(self) -> float:
        return 1.0 / math.log(self.num_data)

    @property
    def nbeta(self) -> float:
        return self.num_data * self.beta

    @property
    def num_parameters(self) -> int:
        pairs = zip(self.widths[:-1], self.widths[1:], strict=True)
        return sum((a + self.bias) * b for a, b in pairs)


WORKLOADS = {
    w.name: w
    for w in (
        Workload("W1", (10, 10, 10), False, 10_000, 100, 1e-5, 10.0, (8, 64)),
        Workload(
            "W2", (185, 259, 286, 885, 235, 204, 274, 252), False, 100_000, 500, 2e-7, 1.0, (4,)
        ),
        Workload("W3", (10, 20, 20, 10), True, 10_000, 32, 1e-5, 10.0, (8, 64)),
    )
}


def teacher(workload: Workload) -> list[dict[str, np.ndarray]]:
    """Returns w* layer by layer: `weight` (out, in) and, for W3, `bias` (out,), in float32.

    Weights are normal, truncated at two standard deviations of 1/sqrt(fan_in).
    """
    rng = np.random.default_rng(DATA_SEED)

    def truncated(shape: tuple[int, ...], fan_in: int) -> np.ndarray:
        z = rng.standard_normal(shape)
        while (outside := np.abs(z) > 2.0).any():
            z[outside] = rng.standard_normal(int(outside.sum()))
        return (z / math.sqrt(fan_in)).astype(np.float32)

    layers = []
    for fan_in, fan_out in zip(workload.widths[:-1], workload.widths[1:], strict=True):
        layer = {"weight": truncated((fan_out, fan_in), fan_in)}
        if workload.bias:
            layer["bias"] = truncated((fan_out,), fan_in)
        layers.append(layer)
    return layers


def forward(layers: list[dict[str, np.ndarray]], inputs: np.ndarray) -> np.ndarray:
    """Returns the network's outputs (n, widths[-1]): linear, or ReLU where layers have biases."""
    h = inputs
    for i, layer in enumerate(layers):
        h = h @ layer["weight"].T
        if "bias" in layer:
            h = h + layer["bias"]
            if i < len(layers) - 1:
                h = np.maximum(h, 0.0)
    return h


def data(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs (n, widths[0]) and the teacher's targets (n, widths[-1]), float32."""
    rng = np.random.default_rng(DATA_SEED + 1)
    shape = (workload.num_data, workload.widths[0])
    inputs = rng.random(shape, dtype=np.float32) * np.float32(20.0) - np.float32(10.0)
    return inputs, forward(teacher(workload), inputs)


def flops_per_chain_step(workload: Workload) -> int:
    """Floating-point operations of a plain minibatch forward and backward pass of one chain.

    Counts the matrix products only: forward, gradient of every weight, and gradient of every
    layer's input but the first's.
    """
    pairs = list(zip(workload.widths[:-1], workload.widths[1:], strict=True))
    products = [2 * workload.batch_size * a * b for a, b in pairs]
    return 3 * sum(products) - products[0]
