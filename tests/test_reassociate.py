"""Chains of products: the same numbers from fewer multiplications."""

from itertools import pairwise

import pytest
import torch
from library_models import INPUTS, filled, numbers
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from llc.library import traced
from llc.library.simplify import simplify

CHAINS, BATCH = 3, 40


def simplified(function, inputs):
    """The trace, and how many numbers its products multiply for each chain, and its products."""
    module = traced.traced(function, inputs)
    simplify(module, inputs)
    products = [n for n in module.graph.nodes if "bmm" in str(n.target)]
    cost = sum(
        n.meta["tensor_meta"].shape[1:].numel() * n.args[-2].meta["tensor_meta"].shape[2]
        for n in products
    )
    return module, cost, len(products)


def linear(*widths):
    """Gradients of a deep linear network, and tensors for them."""
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
    model = filled(nn.Sequential(*layers), dtype=torch.float64)
    names = [name for name, _ in model.named_parameters()]

    def loss(leaves, inputs, targets):
        return (functional_call(model, leaves, (inputs,)) - targets).square().sum()

    def run(*tensors):
        leaves = dict(zip(names, tensors[:-2], strict=True))
        grads, values = vmap(grad_and_value(loss))(leaves, *tensors[-2:])
        return [*grads.values(), values]

    leaves = [leaf.detach().expand(CHAINS, *leaf.shape) for leaf in model.parameters()]
    leaves = [leaf + numbers(*leaf.shape, seed=i).double() for i, leaf in enumerate(leaves)]
    examples = [
        numbers(CHAINS, BATCH, width, seed=width).double() for width in widths[:: len(layers)]
    ]
    return run, [*leaves, *examples]


# Two layers: W₁W₀, its product with the inputs, the residuals' with them, and one a layer.
# Three: one product more of each kind, W₂W₁ also serving the gradient of the first layer.
@pytest.mark.parametrize(
    ("widths", "most"),
    [
        ((5, 6, 4), 5 * 6 * 4 * 3 + 2 * 40 * 5 * 4),
        ((5, 6, 7, 4), 5 * 6 * 4 + 6 * 7 * 4 + 2 * 40 * 5 * 4 + 3 * (4 * 5 * 6 + 4 * 6 * 7)),
    ],
)
def test_a_linear_network_multiplies_its_matrices_first(widths, most):
    function, tensors = linear(*widths)
    module, cost, _ = simplified(function, tensors)
    assert cost <= most
    others = [tensor * 0.7 + 0.1 for tensor in tensors]
    for got, expected in zip(module(*others), function(*others), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_wide_layers_keep_their_order():
    """A batch of fewer examples than the layers have units goes through them one by one."""
    function, tensors = linear(70, 80, 60)
    assert simplified(function, tensors)[1] == BATCH * (3 * 80 * 60 + 2 * 70 * 80)


def chain(dtype=torch.float64):
    """(A B) C where A (B C) takes fewer multiplications."""
    shapes = (CHAINS, 20, 10), (CHAINS, 10, 20), (CHAINS, 20, 2)
    return [numbers(*shape, seed=i).to(dtype) for i, shape in enumerate(shapes)]


def test_a_product_that_is_wanted_stays():
    def function(one, two, three):
        product = torch.bmm(one, two)
        return [torch.bmm(product, three), product.sum((1, 2))]

    _, cost, products = simplified(function, chain())
    assert (cost, products) == (20 * 10 * 20 + 20 * 20 * 2, 2)


def test_transposes_are_seen_through():
    def function(one, two, three):
        product = torch.bmm(two.mT, one.mT)  # (A B)ᵀ
        return [torch.bmm(three.mT, product).mT.sum((1, 2))]

    module, cost, _ = simplified(function, chain())
    assert cost == 2 * 10 * 20 * 2
    for got, expected in zip(module(*chain()), function(*chain()), strict=True):
        torch.testing.assert_close(got, expected)


def test_half_precision_keeps_its_order():
    def function(one, two, three):
        return [torch.bmm(torch.bmm(one, two), three).sum((1, 2))]

    assert simplified(function, chain())[1] == 2 * 10 * 20 * 2
    assert simplified(function, chain(torch.bfloat16))[1] == 20 * 10 * 20 + 20 * 20 * 2


def test_a_matrix_that_is_multiplied_by_itself():
    square = numbers(CHAINS, INPUTS, INPUTS).double()

    def function(one, two):
        return [torch.bmm(torch.bmm(one, one), two)]

    thin = numbers(CHAINS, INPUTS, 1, seed=1).double()
    module, cost, _ = simplified(function, [square, thin])
    assert cost == 2 * INPUTS**2
    torch.testing.assert_close(module(square, thin)[0], function(square, thin)[0])
