"""Perceptrons in either order have the same gradients."""

import pytest
import torch

from llc.models.activations import ACTIVATIONS, RELU
from llc.models.affine import ByExample, ByFeature, Room, affine, layers_of
from llc.models.mlp import apply, shapes

CHAINS, SIZE, WIDTHS = 3, 12, (5, 8, 6)
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}


def normal(*shape, seed):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def leaves(widths, seed):
    return {
        name: normal(CHAINS, *shape, seed=seed + i)
        for i, (name, shape) in enumerate(shapes(widths).items())
    }


@pytest.mark.parametrize("kind", [ByExample, ByFeature])
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("outputs", [1, 2])
def test_gradients_are_those_of_autograd(kind, activation, outputs):
    widths = (*WIDTHS, outputs)
    params, out = leaves(widths, 0), leaves(widths, 10)
    before = {name: leaf.clone() for name, leaf in out.items()}
    rows, wanted = normal(CHAINS, SIZE, 5, seed=20), normal(CHAINS, SIZE, outputs, seed=21)
    networks = kind(rows, SIZE, widths, activation)
    lying = [(CHAINS, *networks.shape(width)) for width in widths]
    room, residual = Room.of(rows, lying, activation.in_place), rows.new_empty(lying[-1])
    inputs, targets = networks.arrange(rows), networks.arrange(wanted)
    given = inputs.clone(), targets.clone()
    networks.add_gradient(layers_of(params), inputs, targets, room, residual, layers_of(out), -0.5)

    asked = {name: leaf.requires_grad_() for name, leaf in params.items()}
    error = apply(asked, rows, activation) - wanted
    grads = torch.autograd.grad(error.square().sum() / 2, list(asked.values()))
    torch.testing.assert_close(residual, networks.arrange(error.detach()), **ROUNDING)
    for (name, leaf), grad in zip(out.items(), grads, strict=True):
        torch.testing.assert_close(leaf, before[name] - 0.5 * grad, **ROUNDING)
    assert all(map(torch.equal, (inputs, targets), given))


def test_narrow_layers_lie_feature_by_feature():
    like = torch.zeros(1)
    assert isinstance(affine(like, SIZE, WIDTHS, RELU), ByFeature)
    assert isinstance(affine(like, 7, WIDTHS, RELU), ByExample)  # shorter than a layer is wide
