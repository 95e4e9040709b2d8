"""Gradients traced once and replayed: the same numbers, from fewer operations."""

import pytest
import torch
from library_models import EXAMPLES, INPUTS, TiedLanguageModel, data, filled, numbers
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from llc.library import traced
from llc.library.replay import Traces
from llc.library.simplify import VIEWS, simplify

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


def named(names, tensors):
    return dict(zip(names, tensors, strict=False))


def stacks(model, seed):
    """Parameters and examples of a few chains."""
    leaves = [
        numbers(CHAINS, *leaf.shape, seed=seed + i, dtype=torch.float64)
        for i, leaf in enumerate(model.parameters())
    ]
    inputs, labels = data(dtype=torch.float64)
    rows = torch.randint(EXAMPLES, (CHAINS, 8), generator=torch.Generator().manual_seed(seed))
    return [*leaves, inputs[rows], labels[rows]]


def replay(function, leaves, examples):
    """A gradient as the library runs it: traced, or as it is where that fails."""
    return traced.replaying(function, leaves, examples) or traced.adding(function)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("in_one_call", [True, False])
def test_a_trace_adds_the_gradient_wherever_it_is_asked(name, in_one_call, monkeypatch):
    """At other weights and examples than it was made with, and without calling the model."""

    def run_by(module, *_):
        return traced.scripted(module) if in_one_call else None

    monkeypatch.setattr(traced, "_in_one_call", run_by)  # which would hide that one fails
    model = filled(MODELS[name](), dtype=torch.float64).eval()
    names = [key for key, _ in model.named_parameters()]
    function = gradients(mean_loss(model), names)
    count = len(names)
    first = stacks(model, 10)
    run = replay(function, first[:count], first[count:])
    for seed in (20, 30):
        tensors = stacks(model, seed)
        before = [tensor.clone() for tensor in tensors]
        *grads, losses = function(*tensors)
        out = [torch.ones_like(grad) for grad in grads]
        with monkeypatch.context() as patch:
            patch.setattr(type(model), "forward", None)
            got = run(named(names, tensors), tensors[count:], named(names, out), SCALE)
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
    run = replay(function, [leaf * 0 for leaf in leaves], [tokens.flip(0)])
    got = run(named(names, leaves), [tokens], named(names, out), 1.0)
    torch.testing.assert_close(got, losses, **ROUNDING)
    for own, grad in zip(out, grads, strict=True):
        torch.testing.assert_close(own, grad, **ROUNDING)


def operations(function, *examples):
    """What the simplified trace of a function runs, and the function that replays it."""
    module = traced.traced(function, examples)
    simplify(module, examples)
    calls = [node for node in module.graph.nodes if node.op == "call_function"]
    names = [node.target.overloadpacket.__name__ for node in calls]
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

    assert_adds(function, [torch.ones(3)], [torch.ones(3)], [-torch.ones(3)])


def assert_adds(function, first, *others):
    """A trace made at the leaves `first` does what the function does at others."""
    run = replay(function, first, [])
    for leaves in others:
        gradient, value = function(*leaves)
        out = torch.zeros_like(gradient)
        got = run({str(i): leaf for i, leaf in enumerate(leaves)}, [], {"out": out}, 1.0)
        torch.testing.assert_close(got, value, **ROUNDING)
        torch.testing.assert_close(out, gradient, **ROUNDING)


def refuse(*_):
    raise TypeError("no such operation")


def refuse_when_called(_):
    return refuse


def do_something_else(module):
    return lambda *inputs: module.forward(*inputs) + 1


@pytest.mark.parametrize("scripted", [refuse, refuse_when_called, do_something_else])
def test_what_torchscript_does_not_do_runs_from_python(scripted, monkeypatch):
    def function(values):
        return [values * 2, values.sum()]

    monkeypatch.setattr(traced, "scripted", scripted)
    assert traced.replaying(function, [torch.ones(3)], []) is not None
    assert_adds(function, [torch.ones(3)], [torch.tensor([1.0, 2.0, 5.0])])


def test_threads_share_what_was_traced_once():
    made, traces = [], Traces()
    for key in (1, 2, 1):
        traces.get(key, lambda: made.append(None))
    assert len(made) == 2


def test_shapes_that_depend_on_numbers_are_not_taken_for_constant():
    def function(values):
        many = len((values > 0).nonzero())
        return [values * many, values[values > 0].sum()]

    assert_adds(function, [torch.ones(3)], [torch.ones(3)], [-torch.ones(3)])


def test_constants_keep_the_precision_of_the_product():
    mask = torch.tensor([1, 2, 3], dtype=torch.uint8)
    third = torch.tensor([1.0, 2.0, 3.0]) / 3

    def function(values):
        return [mask * (values * 300) + third * (values * 0.3), values.sum()]

    start = torch.linspace(1, 2, 3, dtype=torch.float64)
    assert_adds(function, [start], [start], [-start])


def test_whole_numbers_and_half_precision_keep_their_factors():
    ones = torch.ones(500, dtype=torch.int64)

    def function(values):
        places = ones * (values > 0).long()
        return [places * 2, values.bfloat16() * 0.3]

    start = torch.linspace(-1, 2, 500, dtype=torch.float64)
    for got, expected in zip(
        traced_gradient(function, [start])(start), function(start), strict=True
    ):
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)


def traced_gradient(function, leaves):
    module = traced.traced(function, leaves)
    assert simplify(module, leaves)
    return module.forward


@pytest.mark.parametrize("axes", [[0], [-1], [0, 1], []])
def test_sums_of_means_are_along_the_same_axes(axes):
    def function(values):
        means = values.mean(2)
        return [values * 2, means.sum(axes) if axes else means.sum()]

    names, run = operations(function, numbers(2, 3, 4))
    assert "mean" not in names or not axes
    other = numbers(2, 3, 4, seed=5)
    torch.testing.assert_close(run(other)[1], function(other)[1])


def test_an_index_kept_in_the_model_is_traced():
    order, chosen = torch.tensor([2, 0]), torch.tensor([True, False, True])

    def function(values):
        return [values * 2, values[order].sum() + values[chosen].sum()]

    assert not traced._has_sizes_of_its_own(
        traced.traced(lambda values: [values[order]], [torch.ones(3)])
    )
    assert_adds(function, [torch.ones(3)], [torch.tensor([1.0, 2.0, 5.0])])


def test_a_bias_that_all_chains_share_stays_where_it_is():
    def function(left, right, bias):
        return [left * 2, (torch.bmm(left, right) + bias).square().sum((1, 2))]

    shapes = (CHAINS, 40, 3), (CHAINS, 3, 6), (6,)
    inputs = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    got, expected = traced_gradient(function, inputs)(*inputs), function(*inputs)
    torch.testing.assert_close(got[1], expected[1])


def test_a_sum_in_another_precision_stays_one():
    def function(values):
        exact = values.sum(-1, keepdim=True, dtype=torch.float64).view(2).float()
        return [values * 2, exact.sum()]

    large = torch.tensor([[1e8, 1.0, -1e8]]).expand(2, 3).contiguous()
    assert_adds(function, [torch.ones(2, 3)], [large])


def narrow(examples, width):
    """Two narrow layers on a long batch, forwards and backwards."""
    inputs, targets = numbers(CHAINS, examples, 3, seed=1), numbers(CHAINS, examples, 2, seed=2)

    def function(first, bias, second):
        hidden = torch.relu(torch.baddbmm(bias.unsqueeze(1), inputs, first.transpose(1, 2)))
        residual = torch.bmm(hidden, second.transpose(1, 2)) - targets
        back = torch.bmm(residual * 2, second) * (hidden > 0)
        value = residual.pow(2).mean(2).sum(1)
        return [back.sum(1), value]

    shapes = (CHAINS, width, 3), (CHAINS, width), (CHAINS, 2, width)
    return function, [numbers(*shape, seed=5 + i) for i, shape in enumerate(shapes)]


def test_products_of_narrow_layers_are_turned():
    """What is in between works on the transposes, in no more operations."""
    function, leaves = narrow(40, 6)
    module = traced.traced(function, leaves)
    before = [node for node in module.graph.nodes if node.op == "call_function"]
    simplify(module, leaves)
    after = [n for n in module.graph.nodes if n.op == "call_function" and n.target not in VIEWS]
    shapes = [n.meta["tensor_meta"].shape for n in after if "bmm" in n.target.__name__]
    assert [tuple(shape[1:]) for shape in shapes] == [(6, 40), (2, 40), (6, 40)]
    work = [
        n for n in before if "transpose" not in str(n.target) and "squeeze" not in str(n.target)
    ]
    assert len(after) == len(work)
    for got, expected in zip(module(*leaves), function(*leaves), strict=True):
        torch.testing.assert_close(got, expected)
    assert_close_at_others(function, leaves)


def assert_close_at_others(function, leaves):
    run = replay(function, leaves, [])
    others = [leaf + 0.5 for leaf in leaves]
    gradient, value = function(*others)
    out = torch.zeros_like(gradient)
    got = run({str(i): leaf for i, leaf in enumerate(others)}, [], {"out": out}, 1.0)
    torch.testing.assert_close(got, value)
    torch.testing.assert_close(out, gradient)


def test_axes_of_other_tensors_stay_theirs():
    """Beside a product that is turned: what has four axes, and sums along two of three."""
    heads = numbers(CHAINS, 5, 4, 3, seed=1)
    left, right = numbers(CHAINS, 40, 3, seed=2), numbers(CHAINS, 3, 6, seed=3)

    def function(heads, left, right):
        product = torch.bmm(left, right)
        turned = heads.transpose(1, 2)
        sums = [turned.sum(3), turned.mean(1), product.sum(1), product.mean(2)]
        return [*sums, product.sum((1, 2)), (product * 2).sum(2, keepdim=True)]

    _, run = operations(function, heads, left, right)
    for got, expected in zip(run(heads, left, right), function(heads, left, right), strict=True):
        torch.testing.assert_close(got, expected)


def test_products_stay_where_something_needs_their_order(capfd):
    """A view that joins rows; and where the batch is shorter than the layer is wide."""
    left, right = numbers(CHAINS, 40, 3, seed=1), numbers(CHAINS, 3, 6, seed=2)

    def function(one, other):
        product = torch.bmm(one, other)
        return [product.view(CHAINS, 240) * 2, product.sum((1, 2))]

    names, run = operations(function, left, right)
    assert names.count("transpose") == 0
    for got, expected in zip(run(left, right), function(left, right), strict=True):
        assert torch.equal(got, expected)
    few, leaves = narrow(4, 6)
    names, _ = operations(few, *leaves)
    module = traced.traced(few, leaves)
    simplify(module, leaves)
    shapes = [
        tuple(node.meta["tensor_meta"].shape[1:])
        for node in module.graph.nodes
        if node.op == "call_function" and "bmm" in node.target.__name__
    ]
    assert shapes[0] == shapes[-1] == (4, 6)
    assert capfd.readouterr() == ("", "")
