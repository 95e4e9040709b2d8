"""Stacked losses against autograd on a plain forward pass, in float64, chain by chain."""

import pytest
import torch
from oracles import normals

from llc.models import dln, mlp
from llc.models.activations import ACTIVATIONS, GELU, RELU, TANH
from llc.models.dln import LinearLoss, second_moment
from llc.models.mlp import MLPLoss
from llc.params import select, stack, unstack
from llc.products import Product, cheapest_order

# Every product is below ten factors of width ten, each rounding at 2e-16 of its largest term.
ROUNDING = {"rtol": 1e-10, "atol": 1e-11}
CHAINS, STEPS, EXAMPLES = 3, 4, 23

LINEAR = [
    (4, 3), (5, 1), (6, 2, 5), (9, 3, 9, 8), (9, 9, 3, 9), (2, 9, 8, 7), (7, 8, 9, 2),
    (3, 2, 4, 5, 3, 6, 2), (9, 2, 8, 9, 8, 9, 8), (9, 8, 2, 9, 8, 9, 8), (9, 8, 9, 2, 8, 9, 8),
    (9, 8, 9, 8, 2, 9, 8), (9, 8, 9, 8, 9, 2, 8),
]  # fmt: skip
NETWORKS = [(LinearLoss, dln, widths) for widths in LINEAR] + [
    (MLPLoss, mlp, widths) for widths in [(4, 3), (5, 7, 2), (3, 6, 4, 5), (2, 5, 4, 3, 5, 6, 4)]
]

# Each written from its definition, with autograd for the derivative.
FUNCTIONS = {
    "relu": RELU._replace(function=lambda z: z.clamp(min=0)),
    "tanh": TANH._replace(function=lambda z: 1 - 2 / ((2 * z).exp() + 1)),
    "gelu": GELU._replace(function=lambda z: z / 2 * (1 + torch.erf(z / 2**0.5))),
}


def networks(model, widths, count, seed):
    source = torch.Generator().manual_seed(seed)
    return stack([model.init(widths, source, torch.float64) for _ in range(count)])


def make_loss(kind, model, widths, teachers):
    """The stacked loss and its targets, chain by chain."""
    inputs = normals(EXAMPLES, widths[0], seed=1)
    truth = networks(model, widths, teachers, seed=2)
    if kind is LinearLoss:
        matrices = dln.product(truth)
        targets = inputs @ matrices.mT
        loss = LinearLoss(inputs, matrices if teachers > 1 else matrices[0], widths)
    else:
        targets = mlp.apply(truth, inputs) + normals(teachers, EXAMPLES, widths[-1], seed=3)
        loss = MLPLoss(inputs, targets if teachers > 1 else targets[0], widths)
    return loss, inputs, targets.expand(CHAINS, -1, -1)


def draw_indices(which):
    if which == "all":
        return None
    shape = {"own": (STEPS, CHAINS, 7), "shared": (STEPS, 1, 7), "single": (STEPS, CHAINS, 1)}
    source = torch.Generator().manual_seed(4)
    return torch.randint(EXAMPLES, shape[which], generator=source, dtype=torch.int32)


def plain(model, params, inputs, targets, *activation):
    """Mean squared error over batch and outputs, and its gradient, by autograd."""
    params = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    loss = (model.apply(params, inputs, *activation) - targets).square().mean()
    grads = torch.autograd.grad(loss, list(params.values()))
    return loss.detach(), dict(zip(params, grads, strict=True))


def every_order(low, high):
    """Each way to multiply W_high ⋯ W_{low+1} in pairs, as nested (left, right)."""
    if high - low == 1:
        return [low]
    return [
        (left, right)
        for mid in range(low + 1, high)
        for left in every_order(mid, high)
        for right in every_order(low, mid)
    ]


def as_products(tree, widths):
    order = []

    def visit(node):
        if isinstance(node, int):
            return node, node, node + 1
        (right, low, mid), (left, _, high) = visit(node[1]), visit(node[0])
        slot = len(widths) - 1 + len(order)
        order.append(Product(left, right, slot, widths[high], widths[mid], widths[low]))
        return slot, low, high

    visit(tree)
    return order


def operations(order):
    return sum(p.rows * p.inner * p.columns for p in order)


@pytest.mark.parametrize("widths", [w for w in LINEAR if len(w) > 2])
def test_the_order_is_the_cheapest_of_all(widths):
    everything = [as_products(tree, widths) for tree in every_order(0, len(widths) - 1)]
    order = cheapest_order(widths)
    assert order in everything
    assert operations(order) == min(operations(one) for one in everything)


def test_a_single_layer_needs_no_product():
    assert cheapest_order((3, 4)) == []


@pytest.mark.parametrize("widths", LINEAR[7:9])
def test_no_order_changes_a_gradient(widths, monkeypatch):
    for tree in every_order(0, len(widths) - 1):
        monkeypatch.setattr(dln, "cheapest_order", lambda w, t=tree: as_products(t, w))
        check_gradients(LinearLoss, dln, widths, "own", 1)


@pytest.mark.parametrize("teachers", [1, CHAINS])
@pytest.mark.parametrize("which", ["own", "shared", "single", "all"])
@pytest.mark.parametrize(("kind", "model", "widths"), NETWORKS)
def test_losses_baselines_and_gradients(kind, model, widths, which, teachers):
    check_gradients(kind, model, widths, which, teachers)


def check_gradients(kind, model, widths, which, teachers):
    loss, inputs, targets = make_loss(kind, model, widths, teachers)
    centre = networks(model, widths, CHAINS, seed=5)
    block = loss.block(centre, loss.reference(centre), STEPS)
    indices = draw_indices(which)
    block.load(STEPS, indices)
    points = [networks(model, widths, CHAINS, seed=10 + step) for step in range(STEPS)]
    before = [{name: leaf.clone() for name, leaf in point.items()} for point in points]
    outs = []
    for step, point in enumerate(points):
        outs.append({name: torch.ones_like(leaf) for name, leaf in point.items()})
        block.add_gradient(step, point, outs[-1], -0.7)
    losses, baselines = block.losses(), block.baselines()
    assert losses.shape == baselines.shape == (STEPS, CHAINS)
    torch.testing.assert_close(block.losses(slice(1, 3)), losses[1:3], rtol=0, atol=0)
    torch.testing.assert_close(block.baselines(slice(1, 3)), baselines[1:3], **ROUNDING)
    for step in range(STEPS):
        assert all(torch.equal(points[step][name], before[step][name]) for name in centre)
        for chain in range(CHAINS):
            rows = slice(None)
            if indices is not None:
                rows = indices[step, chain if indices.shape[1] > 1 else 0].long()
            x, y = inputs[rows], targets[chain, rows]
            value, grad = plain(model, unstack(points[step], chain), x, y)
            torch.testing.assert_close(losses[step, chain], value, **ROUNDING)
            for name, leaf in grad.items():
                torch.testing.assert_close(outs[step][name][chain], 1 - 0.7 * leaf, **ROUNDING)
            base, _ = plain(model, unstack(centre, chain), x, y)
            torch.testing.assert_close(baselines[step, chain], base, **ROUNDING)


@pytest.mark.parametrize(("kind", "model"), [(LinearLoss, dln), (MLPLoss, mlp)])
def test_a_block_may_be_loaded_again_with_other_batches(kind, model):
    widths = (4, 5, 3)
    loss, *_ = make_loss(kind, model, widths, 1)
    weights = networks(model, widths, CHAINS, seed=5)
    used = loss.block(weights, loss.reference(weights), STEPS)
    for which in ("own", "single", "all", "shared"):
        fresh = loss.block(weights, loss.reference(weights), STEPS)
        results = []
        for block in (used, fresh):
            block.load(STEPS, draw_indices(which))
            for step in range(STEPS):
                block.add_gradient(step, weights, {n: w.clone() for n, w in weights.items()}, 1.0)
            results.append(torch.cat([block.losses(), block.baselines()]))
        torch.testing.assert_close(*results, **ROUNDING)


@pytest.mark.parametrize(("kind", "model"), [(LinearLoss, dln), (MLPLoss, mlp)])
def test_at_the_truth_every_baseline_is_zero(kind, model):
    widths = (4, 5, 3)
    truth = networks(model, widths, 1, seed=2)
    inputs = normals(EXAMPLES, 4, seed=1)
    answer = dln.product(truth)[0] if model is dln else mlp.apply(truth, inputs)[0]
    loss = kind(inputs, answer, widths)
    reference = loss.reference(truth)
    assert not reference.any()
    assert float(loss.full_data(truth)) == 0
    block = loss.block(networks(model, widths, CHAINS, seed=5), reference, STEPS)
    for which in ("own", "shared", "all"):
        block.load(STEPS, draw_indices(which))
        assert block.baselines().shape == (STEPS, CHAINS)
        assert not block.baselines().any()


@pytest.mark.parametrize("teachers", [1, CHAINS])
@pytest.mark.parametrize(("kind", "model", "widths"), NETWORKS[2:4] + NETWORKS[-3:])
def test_full_data_and_one_reference_for_all(kind, model, widths, teachers):
    loss, inputs, targets = make_loss(kind, model, widths, teachers)
    weights = networks(model, widths, CHAINS, seed=5)
    expected = [plain(model, unstack(weights, c), inputs, targets[c])[0] for c in range(CHAINS)]
    torch.testing.assert_close(loss.full_data(weights), torch.stack(expected), **ROUNDING)
    if teachers == 1:  # one reference serves every chain
        one = select(weights, slice(0, 1))
        block = loss.block(weights, loss.reference(one), STEPS)
        repeated = loss.block(weights, loss.reference(one).repeat_interleave(CHAINS, 0), STEPS)
        for which in ("own", "shared", "all"):
            block.load(STEPS, draw_indices(which))
            repeated.load(STEPS, draw_indices(which))
            torch.testing.assert_close(block.baselines(), repeated.baselines(), **ROUNDING)


@pytest.mark.parametrize("teachers", [1, CHAINS])
@pytest.mark.parametrize(("kind", "model", "widths"), [NETWORKS[3], NETWORKS[-2]])
def test_select_is_the_loss_of_those_chains(kind, model, widths, teachers):
    loss, _, _ = make_loss(kind, model, widths, teachers)
    weights = networks(model, widths, CHAINS, seed=5)
    for index in (slice(0, 1), slice(1, 3)):
        part = loss.select(index)
        whole, own = loss.full_data(weights)[index], part.full_data(select(weights, index))
        torch.testing.assert_close(own, whole, **ROUNDING)


def test_full_data_accumulates_in_float64():
    widths, n = (2, 3), 50_000
    inputs, teacher = normals(n, 2), normals(3, 2)
    weights = networks(dln, widths, 1, seed=5)
    single = {name: leaf.float() for name, leaf in weights.items()}
    exact = inputs.float().double() @ (single["layer1"][0] - teacher.float()).double().mT
    got = LinearLoss(inputs.float(), teacher.float(), widths).full_data(single)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got[0], exact.square().mean(), rtol=1e-12, atol=0)
    many = second_moment(inputs.float(), chunk=777)
    torch.testing.assert_close(many, second_moment(inputs.float()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("which", ["own", "shared", "all"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, which):
    """Twice the same batches: what one step leaves in a buffer must not reach the next."""
    widths, activation = (3, 6, 4, 2), ACTIVATIONS[name]
    inputs, targets = normals(EXAMPLES, 3, seed=1), normals(EXAMPLES, 2, seed=2)
    loss = MLPLoss(inputs, targets, widths, activation)
    weights = networks(mlp, widths, CHAINS, seed=5)
    block = loss.block(weights, loss.reference(weights), STEPS)
    indices = draw_indices(which)
    for _ in range(2):
        block.load(STEPS, indices)
        for step in range(STEPS):
            out = {leaf: torch.ones_like(value) for leaf, value in weights.items()}
            block.add_gradient(step, weights, out, -0.7)
            for chain in range(CHAINS):
                rows = slice(None)
                if indices is not None:
                    rows = indices[step, chain if indices.shape[1] > 1 else 0].long()
                value, grad = plain(
                    mlp, unstack(weights, chain), inputs[rows], targets[rows], FUNCTIONS[name]
                )
                torch.testing.assert_close(block.losses()[step, chain], value, **ROUNDING)
                torch.testing.assert_close(block.baselines()[step, chain], value, **ROUNDING)
                for leaf, part in grad.items():
                    torch.testing.assert_close(out[leaf][chain], 1 - 0.7 * part, **ROUNDING)
    expected = mlp.apply(weights, inputs, activation) - targets
    torch.testing.assert_close(loss.full_data(weights), expected.square().mean((1, 2)), **ROUNDING)


def test_mlp_losses_per_example_do_not_depend_on_the_chunk():
    loss, inputs, targets = make_loss(MLPLoss, mlp, (3, 4, 2), CHAINS)
    weights = networks(mlp, (3, 4, 2), CHAINS, seed=5)
    expected = (mlp.apply(weights, inputs) - targets).square().mean(-1)
    for chunk in (1, 5, 1000):
        torch.testing.assert_close(loss.per_example(weights, chunk), expected, **ROUNDING)


def test_initialisation_spreads():
    n = 400 * 300
    layer = dln.init((300, 400), torch.Generator().manual_seed(0), torch.float64)["layer1"]
    scaled = layer * 300**0.5
    assert scaled.abs().max() <= 2
    # Variance of a normal cut at ±2 is 0.7737, fourth moment 1.416; five sigma: false-fail 6e-7.
    assert abs(scaled.square().mean() - 0.77374) < 5 * ((1.4161 - 0.77374**2) / n) ** 0.5
    leaves = mlp.init((300, 400), torch.Generator().manual_seed(0), torch.float64)
    assert abs(leaves["weight1"].square().mean() * 150 - 1) < 5 * (2 / n) ** 0.5
    assert abs(leaves["bias1"].square().mean() - 1) < 5 * (2 / 400) ** 0.5
