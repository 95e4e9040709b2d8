"""Activations with their derivatives written out, for backward passes without autograd."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Activation(NamedTuple):
    """h = φ(z), and δ_z = φ'(z) δ_h.

    In place, φ overwrites z by h, and the derivative is computed from h: one buffer and one pass
    less. `forward` and `backward` are functions of TorchScript, for others of it to call.
    """

    name: str
    function: Callable[[Tensor], Tensor]  # z -> h
    forward: Callable[[Tensor, Tensor], Tensor]  # (z, out): h, in `out`, or in z where in place
    backward: Callable[[Tensor, Tensor], Tensor]  # (δ_h, z, or h where in place): δ_z, in δ_h
    in_place: bool


PASSES = torch.jit.CompilationUnit(
    """
def relu(z: Tensor, out: Tensor) -> Tensor:
    return z.relu_()

def relu_backward(delta: Tensor, h: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(delta, h, 0, grad_input=delta)

# tanh z = 2σ(2z) − 1, to rounding of 1: on the CPU σ is faster than tanh.
def tanh(z: Tensor, out: Tensor) -> Tensor:
    return z.mul_(2).sigmoid_().mul_(2).sub_(1)

def tanh_backward(delta: Tensor, h: Tensor) -> Tensor:
    return torch.ops.aten.tanh_backward(delta, h, grad_input=delta)

def gelu(z: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.gelu(z, out=out)

def gelu_backward(delta: Tensor, z: Tensor) -> Tensor:
    return torch.ops.aten.gelu_backward(delta, z, grad_input=delta)
"""
)

RELU = Activation("relu", torch.relu, PASSES.relu, PASSES.relu_backward, in_place=True)
TANH = Activation("tanh", torch.tanh, PASSES.tanh, PASSES.tanh_backward, in_place=True)
# Hendrycks & Gimpel 2016: z Φ(z), exactly. It is not monotone, so that h does not tell z.
GELU = Activation(
    "gelu", torch.nn.functional.gelu, PASSES.gelu, PASSES.gelu_backward, in_place=False
)
ACTIVATIONS = {each.name: each for each in (RELU, TANH, GELU)}
