"""Multilayer perceptrons with squared loss, stacked along the chain axis.

    h_0 = x,  h_ℓ = φ(z_ℓ),  z_ℓ = W_ℓ h_{ℓ−1} + b_ℓ,  f(x) = z_L,
    L_B(w) = mean over batch and outputs of (f(x) − y)²,
φ the activation, with the backward pass written out: a stack of small networks is limited by the
number of operations a step launches, not by arithmetic.
"""

from collections.abc import Sequence
from copy import copy
from math import sqrt

import torch
from torch import Tensor

from llc.models.activations import RELU, Activation
from llc.models.affine import Room, affine, layers_of
from llc.models.base import EVERY, LossBlock, rows_of_each
from llc.params import Params, derive


def shapes(widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Leaf shapes for widths, input first: `weight1` (widths[1], widths[0]), `bias1`, …"""
    leaves: dict[str, tuple[int, ...]] = {}
    for i in range(1, len(widths)):
        leaves[f"weight{i}"] = (widths[i], widths[i - 1])
        leaves[f"bias{i}"] = (widths[i],)
    return leaves


def init(widths: Sequence[int], generator: torch.Generator, dtype: torch.dtype) -> Params:
    """One network: normal weights of deviation √(2/fan_in) (He et al. 2015), normal biases."""
    params = {}
    for name, shape in shapes(widths).items():
        leaf = torch.randn(shape, generator=generator, dtype=dtype)
        params[name] = leaf * sqrt(2 / shape[1]) if len(shape) == 2 else leaf
    return params


def apply(params: Params, inputs: Tensor, activation: Activation = RELU) -> Tensor:
    """f(x) of a stack (C, …) on inputs (B, d) or (C, B, d): (C, B, o)."""
    leaves = list(params.values())
    hidden = inputs
    for i in range(0, len(leaves), 2):
        hidden = hidden @ leaves[i].mT + leaves[i + 1].unsqueeze(-2)
        if i + 2 < len(leaves):
            hidden = activation.function(hidden)
    return hidden


def rescaling(widths: Sequence[int], scales: Tensor) -> Params:
    """T_s for every s > 0 of (S,): w → T_s w leaves f as it is where φ(sz) = sφ(z) (ReLU).

    Layer 1 (weights and bias) times s, layer 2's weights over s, the rest stays. Returns: the
    factor of each leaf, (S, 1, …).
    """
    powers = {"weight1": 1.0, "bias1": 1.0, "weight2": -1.0}
    return {
        name: scales.pow(powers.get(name, 0.0)).view(-1, *[1] * len(shape))
        for name, shape in shapes(widths).items()
    }


class MLPLoss:
    """Mean squared error of a stack of MLPs on inputs (n, d).

    `targets` (n, o), or (S, n, o) where each centre has its own.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        widths: Sequence[int],
        activation: Activation = RELU,
    ) -> None:
        self.inputs, self.activation = inputs, activation
        self.targets = targets if targets.dim() == 3 else targets.unsqueeze(0)
        self.widths = tuple(widths)
        self.shapes = shapes(widths)
        self.num_examples = len(inputs)

    def reference(self, centres: Params) -> Tensor:
        """(S, n) losses of every example at w*."""
        return self.per_example(centres)

    def numbers_per_step(self, batch_size: int) -> int:
        gathered = 0 if batch_size >= self.num_examples else self.widths[0] + self.widths[-1]
        return batch_size * (gathered + self.widths[-1])

    def examples_per_step(self, batch_size: int) -> int:
        return batch_size

    def block(self, like: Params, reference: Tensor, steps: int) -> "MLPBlock":
        return MLPBlock(self, like, reference, steps)

    def full_data(self, weights: Params) -> Tensor:
        return self.per_example(weights).double().mean(-1)

    def per_example(self, weights: Params, chunk: int = 16_384) -> Tensor:
        """(C, n) losses of every example, in the weights' precision and chunks of bounded size."""
        like, parts = next(iter(weights.values())), []
        for start in range(0, self.num_examples, chunk):
            rows = slice(start, start + chunk)
            outputs = apply(weights, self.inputs[rows].to(like), self.activation)
            residual = outputs - self.targets[:, rows]
            parts.append(residual.square_().mean(-1))
        return torch.cat(parts, dim=1)

    def select(self, index: slice) -> "MLPLoss":
        return self if len(self.targets) == 1 else self._with(self.targets[index])

    def repeat(self, times: int) -> "MLPLoss":
        many = len(self.targets) > 1
        return self._with(self.targets.repeat_interleave(times, 0)) if many else self

    def _with(self, targets: Tensor) -> "MLPLoss":
        other = copy(self)
        other.targets = targets
        return other


class MLPBlock(LossBlock):
    """K minibatches of C chains; see `models.base.LossBlock`."""

    def __init__(self, loss: MLPLoss, like: Params, reference: Tensor, steps: int) -> None:
        self.loss, self.steps = loss, steps
        self.like = next(iter(like.values()))
        self.chains = len(self.like)
        self.centre_losses, self.realisable = reference, not bool(reference.any())
        self.size = 0  # of a batch; the buffers below follow it
        self._whole: tuple[Tensor, Tensor] | None = None  # all data, where a batch is that

    def load(self, steps: int, indices: Tensor | None) -> None:
        loss, chains, self.used = self.loss, self.chains, steps
        if indices is None:
            self._allocate(loss.num_examples)
            if self._whole is None:
                whole = self.affine.arrange(loss.inputs), self.affine.arrange(loss.targets)
                self._whole = whole[0].expand(chains, -1, -1), whole[1].expand(chains, -1, -1)
            self.inputs, self.targets = ([each] * steps for each in self._whole)
            self._baselines = self.centre_losses.mean(-1).expand(steps, chains)
            return
        steps, streams, size = indices.shape
        self._allocate(size)
        rows = loss.inputs.index_select(0, indices.flatten())
        inputs = self.affine.arrange(rows.view(steps, streams, size, -1))
        targets = self.affine.arrange(rows_of_each(loss.targets, indices))
        self.inputs = list(inputs.expand(-1, chains, -1, -1))
        self.targets = list(targets.expand(-1, chains, -1, -1))
        if not self.realisable:
            values = rows_of_each(self.centre_losses.unsqueeze(-1), indices)
            self._baselines = values.squeeze(-1).mean(-1).expand(-1, chains)

    def _allocate(self, size: int) -> None:
        if size == self.size:
            return
        self.size, widths = size, self.loss.widths
        self.affine = affine(self.like, size, widths, self.loss.activation)
        shapes = [(self.chains, *self.affine.shape(width)) for width in widths]
        self._residuals = self.like.new_empty(self.steps, *shapes[-1])
        self._residual_views = list(self._residuals)
        self._room = Room.of(self.like, shapes, self.loss.activation.in_place)
        self._baselines = self.like.new_zeros(self.steps, self.chains)

    def add_gradient(self, step: int, weights: Params, out: Params, scale: float) -> None:
        self.affine.add_gradient(
            derive(weights, layers_of),
            self.inputs[step],
            self.targets[step],
            self._room,
            self._residual_views[step],
            derive(out, layers_of),
            2 * scale / (self.size * self.loss.widths[-1]),
        )

    def losses(self, steps: slice = EVERY) -> Tensor:
        return self._residuals[: self.used][steps].square().mean((-2, -1))

    def baselines(self, steps: slice = EVERY) -> Tensor:
        return self._baselines[: self.used][steps]
