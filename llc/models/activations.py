"""Activations with their derivatives written out, for backward passes without autograd."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Activation(NamedTuple):
    """h = φ(z), and δ_z = φ'(z) δ_h.

    In place, φ overwrites z by h, and the derivative is computed from h: one buffer and one pass
    less.
    """

    name: str
    function: Callable[[Tensor], Tensor]  # z -> h
    forward: Callable[[Tensor, Tensor], Tensor]  # (z, out): h, in `out`, or in z where in place
    backward: Callable[[Tensor, Tensor], Tensor]  # (δ_h, z, or h where in place): δ_z, in δ_h
    in_place: bool


def _relu_forward(z: Tensor, out: Tensor) -> Tensor:
    return z.relu_()


def _relu_backward(delta: Tensor, h: Tensor) -> Tensor:
    result: Tensor = torch.ops.aten.threshold_backward.grad_input(delta, h, 0, grad_input=delta)
    return result


def _tanh_forward(z: Tensor, out: Tensor) -> Tensor:
    """tanh z = 2σ(2z) − 1, to rounding of 1: on the CPU σ is faster than tanh."""
    return z.mul_(2).sigmoid_().mul_(2).sub_(1)


def _tanh_backward(delta: Tensor, h: Tensor) -> Tensor:
    result: Tensor = torch.ops.aten.tanh_backward.grad_input(delta, h, grad_input=delta)
    return result


def _gelu_forward(z: Tensor, out: Tensor) -> Tensor:
    result: Tensor = torch.ops.aten.gelu.out(z, out=out)
    return result


def _gelu_backward(delta: Tensor, z: Tensor) -> Tensor:
    result: Tensor = torch.ops.aten.gelu_backward.grad_input(delta, z, grad_input=delta)
    return result


RELU = Activation("relu", torch.relu, _relu_forward, _relu_backward, in_place=True)
TANH = Activation("tanh", torch.tanh, _tanh_forward, _tanh_backward, in_place=True)
# Hendrycks & Gimpel 2016: z Φ(z), exactly. It is not monotone, so that h does not tell z.
GELU = Activation("gelu", torch.nn.functional.gelu, _gelu_forward, _gelu_backward, in_place=False)
ACTIVATIONS = {each.name: each for each in (RELU, TANH, GELU)}
