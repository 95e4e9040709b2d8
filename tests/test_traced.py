"""Gradients traced once and replayed: the same numbers, from fewer operations."""

import pytest
import torch
from library_models import EXAMPLES, INPUTS, TiedLanguageModel, data, filled, numbers
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from llc.library import traced
from llc.library.simplify import simplify

CHAINS, SCALE = 3, -0.25
# The same operations on the same numbers, but that products are added to in another order.
ROUNDING = {"rtol": 1e-10, "atol": 1e-12}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs):
        hidden = self.norm(inputs.unsqueeze(-1) * torch.arange(1.0, 5.0, dtype=inputs.dtype))
        return self.head(self.mix(hidden, hidden, hidden)[0].mean(1))


def convolution():
    layers = nn.Unflatten(1, (1, INPUTS)), nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.GELU()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * (INPUTS - 2), 3))


def layers(*activations):
    widths = [INPUTS, *(6 for _ in activations)]
    hidden = [
        part
        for width, activation in zip(widths, activations, strict=False)
        for part in (nn.Linear(width, 6), activation)
    ]
    return nn.Sequential(*hidden, nn.Linear(6, 3))


MODELS = {
    "linear": lambda: nn.Sequential(nn.Linear(INPUTS, 4, False), nn.Linear(4, 3, False)),
    "relu": lambda: layers(nn.ReLU(), nn.ReLU()),
    "in place": lambda: layers(nn.ReLU(inplace=True), nn.SELU(inplace=True)),
    "tanh": lambda: layers(nn.Tanh(), nn.Sigmoid(), nn.Softplus()),
    "convolution": convolution,
    "attention": Attention,
}


def mean_loss(model):
    def loss(leaves, inputs, labels):
        outputs = functional_call(model, leaves, (inputs,))
        return cross_entropy(outputs, labels, reduction="none").sum() / len(labels)

    return loss


def gradients(loss, names):
    """(leaves, examples) -> the gradients of a stack, and its losses."""

    def run(*tensors):
        leaves = dict(zip(names, tensors[: len(names)], strict=True))
        grads, values = vmap(grad_and_value(loss))(leaves, *tensors[len(names) :])
        return [*(grads[name] for name in names), values]

    return run


def stacks(model, seed):
    """Parameters and examples of a few chains."""
    leaves = [
        numbers(CHAINS, *leaf.shape, seed=seed + i, dtype=torch.float64)
        for i, leaf in enumerate(model.parameters())
    ]
    inputs, labels = data(dtype=torch.float64)
    rows = torch.randint(EXAMPLES, (CHAINS, 8), generator=torch.Generator().manual_seed(seed))
    return [*leaves, inputs[rows], labels[rows]]


@pytest.mark.parametrize("name", MODELS)
def test_a_trace_adds_the_gradient_wherever_it_is_asked(name, monkeypatch):
    """At other weights and examples than it was made with, and without calling the model."""
    model = filled(MODELS[name](), dtype=torch.float64).eval()
    names = [key for key, _ in model.named_parameters()]
    function = gradients(mean_loss(model), names)
    run = traced.adding(function, stacks(model, 10))
    for seed in (20, 30):
        tensors = stacks(model, seed)
        before = [tensor.clone() for tensor in tensors]
        *grads, losses = function(*tensors)
        out = [torch.ones_like(grad) for grad in grads]
        with monkeypatch.context() as patch:
            patch.setattr(type(model), "forward", None)
            got = run(tensors, out, SCALE)
        torch.testing.assert_close(got, losses, **ROUNDING)
        for own, grad in zip(out, grads, strict=True):
            torch.testing.assert_close(own, 1 + SCALE * grad, **ROUNDING)
        assert all(map(torch.equal, tensors, before))


def test_tied_weights_and_tokens_are_traced_too():
    model = filled(TiedLanguageModel(), dtype=torch.float64)
    names = [key for key, _ in model.named_parameters()]
    tokens = torch.randint(7, (CHAINS, 4, 5), generator=torch.Generator().manual_seed(1))
    leaves = [
        numbers(CHAINS, *leaf.shape, seed=i, dtype=torch.float64)
        for i, leaf in enumerate(model.parameters())
    ]

    def loss(own, rows):
        logits = functional_call(model, own, (rows,))
        return cross_entropy(logits[:, :-1].transpose(1, 2), rows[:, 1:])

    function = gradients(loss, names)
    *grads, losses = function(*leaves, tokens)
    out = [torch.zeros_like(grad) for grad in grads]
    run = traced.adding(function, [leaf * 0 for leaf in leaves] + [tokens.flip(0)])
    torch.testing.assert_close(run([*leaves, tokens], out, 1.0), losses, **ROUNDING)
    for own, grad in zip(out, grads, strict=True):
        torch.testing.assert_close(own, grad, **ROUNDING)


def operations(function, *examples):
    """What the simplified trace of a function runs, and the function that replays it."""
    module = traced.traced(function, examples)
    simplify(module)
    names = [node.target.__name__ for node in module.graph.nodes if node.op == "call_function"]
    return names, module.forward


def test_what_changes_nothing_is_not_run():
    def function(values):
        same = (values.view(2, 3).expand(2, 3) * 1).transpose(0, 1).transpose(0, 1)
        ones = torch.ones_like(values) * 3 + 4  # depends on no number
        return [same.pow(1) + ones]

    names, run = operations(function, numbers(2, 3))
    assert names == ["add"]
    other = numbers(2, 3, seed=5)
    assert torch.equal(run(other)[0], other + 7)


def test_what_changes_something_is_run():
    """A factor of one that makes a copy, which is then written to."""

    def function(values):
        copy = values * 1
        copy.add_(1)
        return [copy, values.expand(2, 2, 3), values.transpose(0, 1).transpose(0, -1), values * 2]

    values = numbers(2, 3)
    _, run = operations(function, values)
    other = numbers(2, 3, seed=5)
    for got, expected in zip(run(other), function(other), strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(other, numbers(2, 3, seed=5))


def test_a_product_that_is_wanted_twice_stays():
    def function(base, left, right):
        product = torch.bmm(left, right)
        return [base + product, product]

    shapes = (2, 3, 5), (2, 3, 4), (2, 4, 5)
    names, run = operations(function, *(numbers(*shape) for shape in shapes))
    assert sorted(names) == ["add", "bmm"]
    others = [numbers(*shape, seed=i + 1) for i, shape in enumerate(shapes)]
    for got, expected in zip(run(*others), function(*others), strict=True):
        assert torch.equal(got, expected)


def test_a_function_that_cannot_be_traced_runs_as_it_is():
    def function(values):
        scale = 2.0 if float(values.sum()) > 0 else 3.0
        return [values * scale, values.sum()]

    run = traced.adding(function, [torch.ones(3)])
    for values in (torch.ones(3), -torch.ones(3)):
        out = [torch.zeros(3)]
        assert float(run([values], out, 1.0)) == float(values.sum())
        assert torch.equal(out[0], function(values)[0])
