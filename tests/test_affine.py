"""Affine layers in either order are the same layers."""

import pytest
import torch

from llc.models.affine import ByExample, ByFeature, affine, layers_of

CHAINS, SIZE, WIDTHS = 3, 12, (5, 8, 2)
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}


def normal(*shape, seed):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def leaves(seed):
    shapes = {"weight1": (8, 5), "bias1": (8,), "weight2": (2, 8), "bias2": (2,)}
    return {
        name: normal(CHAINS, *shape, seed=seed + i)
        for i, (name, shape) in enumerate(shapes.items())
    }


@pytest.mark.parametrize("kind", [ByExample, ByFeature])
def test_layers_go_forwards_and_backwards(kind):
    params, out = leaves(0), leaves(10)
    before = {name: leaf.clone() for name, leaf in out.items()}
    rows, deltas = normal(CHAINS, SIZE, 8, seed=20), normal(CHAINS, SIZE, 2, seed=21)
    layers = kind(rows, SIZE, WIDTHS)
    hidden, delta = layers.arrange(rows), layers.arrange(deltas)

    def room(width):
        return rows.new_empty(CHAINS, *layers.shape(width))

    weight, bias = params["weight2"], params["bias2"]
    forward = layers.forward(1, layers_of(params)[1], hidden, room(2))
    expected = rows @ weight.mT + bias.unsqueeze(1)
    torch.testing.assert_close(forward, layers.arrange(expected), **ROUNDING)
    backward = layers.backward(1, layers_of(params)[1], delta, room(8))
    torch.testing.assert_close(backward, layers.arrange(deltas @ weight), **ROUNDING)
    layers.accumulate(1, layers_of(out)[1], delta, hidden, -0.5)
    expected = before["weight2"] - 0.5 * deltas.mT @ rows
    torch.testing.assert_close(out["weight2"], expected, **ROUNDING)
    torch.testing.assert_close(out["bias2"], before["bias2"] - 0.5 * deltas.sum(1), **ROUNDING)
    assert torch.equal(out["weight1"], before["weight1"])


@pytest.mark.parametrize("kind", [ByExample, ByFeature])
def test_a_layer_with_one_output_goes_backwards(kind):
    weight, bias = normal(CHAINS, 1, 8, seed=0), normal(CHAINS, 1, seed=1)
    deltas = normal(CHAINS, SIZE, 1, seed=2)
    layers = kind(weight, SIZE, (5, 8, 1))
    out = weight.new_empty(CHAINS, *layers.shape(8))
    [layer] = layers_of({"weight": weight, "bias": bias})
    backward = layers.backward(1, layer, layers.arrange(deltas), out)
    torch.testing.assert_close(backward, layers.arrange(deltas @ weight), **ROUNDING)


def test_narrow_layers_lie_feature_by_feature():
    like = torch.zeros(1)
    assert isinstance(affine(like, SIZE, WIDTHS), ByFeature)
    assert isinstance(affine(like, 7, WIDTHS), ByExample)  # shorter than a layer is wide
