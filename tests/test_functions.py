"""Losses given as functions: gradients against finite differences, batches against their rows."""

import pytest
import torch
from oracles import normals

from llc.models.functions import FunctionLoss, potential_loss
from llc.params import Layout, select, stack
from llc.posterior import LocalPosterior
from llc.streams import ShuffledBatches, Stream

CHAINS, STEPS, EXAMPLES, SIZE = 3, 4, 24, 6
SHAPES = {"a": (), "b": (2,)}
# A handful of sums of at most 24 numbers of order one, each rounding at 2e-16.
ROUNDING = {"rtol": 1e-13, "atol": 1e-13}


def wave(weights, examples):
    """(a sin⟨b, x⟩ − x_1)² for examples (·, B, 2)."""
    phase = (examples * weights["b"].unsqueeze(1)).sum(-1)
    return (weights["a"].unsqueeze(1) * phase.sin() - examples[..., 0]).square()


def bowl(weights):
    return weights["a"].square() / 2 + weights["b"].pow(4).sum(-1)


def wave_loss():
    return FunctionLoss(wave, SHAPES, normals(EXAMPLES, 2, seed=1))


def points(count, seed):
    return {
        name: normals(count, *shape, seed=seed + i)
        for i, (name, shape) in enumerate(SHAPES.items())
    }


def indices(streams):
    source = torch.Generator().manual_seed(4)
    return torch.randint(EXAMPLES, (STEPS, streams, SIZE), generator=source, dtype=torch.int32)


def by_hand(params, chain, rows):
    """Mean of `wave`, in plain numbers, without the stack."""
    a, (b1, b2) = params["a"][chain], params["b"][chain]
    x, y = rows.T
    return (a * torch.sin(b1 * x + b2 * y) - x).square().mean()


@pytest.mark.parametrize("own_centres", [True, False])
@pytest.mark.parametrize("streams", [CHAINS, 1, None])
def test_losses_baselines_and_gradients(streams, own_centres):
    loss, centre = wave_loss(), points(CHAINS if own_centres else 1, seed=2)
    chosen = None if streams is None else indices(streams)
    block = loss.block(points(CHAINS, seed=3), loss.reference(centre), STEPS)
    block.load(STEPS, chosen)
    everywhere = [points(CHAINS, seed=10 * step) for step in range(STEPS)]
    gradients = []
    for step, point in enumerate(everywhere):
        gradients.append({name: torch.ones_like(leaf) for name, leaf in point.items()})
        block.add_gradient(step, point, gradients[-1], -0.7)
    assert block.losses().shape == block.baselines().shape == (STEPS, CHAINS)
    torch.testing.assert_close(block.losses(slice(1, 3)), block.losses()[1:3], rtol=0, atol=0)
    told, before = block.losses(), block.losses().clone()
    block.add_gradient(0, everywhere[1], points(CHAINS, seed=9), 1.0)
    assert torch.equal(told, before)  # asked again elsewhere, what was told stays
    block.add_gradient(0, everywhere[0], points(CHAINS, seed=9), 1.0)
    for step, point in enumerate(everywhere):
        for chain in range(CHAINS):
            rows = loss.data
            if chosen is not None:
                rows = rows[chosen[step, chain if streams > 1 else 0].long()]
            value = by_hand(point, chain, rows)
            torch.testing.assert_close(block.losses()[step, chain], value, **ROUNDING)
            base = by_hand(centre, chain if own_centres else 0, rows)
            torch.testing.assert_close(block.baselines()[step, chain], base, **ROUNDING)
            check_gradient(point, chain, rows, gradients[step])


def check_gradient(point, chain, rows, out):
    """Central differences of step h err by h²f'''/6 ~ 1e-9 and by 2e-16·f/h ~ 1e-11."""
    h = 1e-5
    for name, shape in SHAPES.items():
        for place in range(*shape) if shape else [()]:
            values = []
            for sign in (1, -1):
                moved = {key: leaf.clone() for key, leaf in point.items()}
                moved[name][chain][place] += sign * h
                values.append(by_hand(moved, chain, rows))
            slope = (values[0] - values[1]) / (2 * h)
            got = (1 - out[name][chain][place]) / 0.7
            torch.testing.assert_close(got, slope, rtol=1e-7, atol=1e-7)


def test_a_gradient_in_closed_form_takes_the_place_of_autograd():
    asked = []

    def slope(weights):
        asked.append(len(weights["a"]))
        return bowl(weights), {"a": weights["a"], "b": 4 * weights["b"].pow(3)}

    weights, results = points(CHAINS, seed=2), []
    for given in (None, slope):
        loss = potential_loss(bowl, SHAPES, 9, given)
        block = loss.block(weights, loss.reference(weights), 1)
        block.load(1, None)
        out = {name: torch.ones_like(leaf) for name, leaf in weights.items()}
        block.add_gradient(0, weights, out, -0.7)
        results.append([block.losses(), *out.values()])
    for by_autograd, closed in zip(*results, strict=True):
        torch.testing.assert_close(closed, by_autograd, **ROUNDING)
    assert asked == [CHAINS]


def test_an_epoch_of_minibatches_is_all_the_data():
    loss, weights = wave_loss(), points(CHAINS, seed=2)
    steps = EXAMPLES // SIZE
    streams = [Stream(0, chain) for chain in range(CHAINS)]
    batches = ShuffledBatches(streams, EXAMPLES, SIZE, torch.device("cpu")).draw(steps)
    block = loss.block(weights, loss.reference(weights), steps)
    block.load(steps, batches)
    parts = {name: torch.zeros_like(leaf) for name, leaf in weights.items()}
    for step in range(steps):
        block.add_gradient(step, weights, parts, 1 / steps)
    torch.testing.assert_close(block.losses().mean(0), loss.full_data(weights), **ROUNDING)
    torch.testing.assert_close(block.baselines().mean(0), loss.full_data(weights), **ROUNDING)
    block.load(1, None)
    whole = {name: torch.zeros_like(leaf) for name, leaf in weights.items()}
    block.add_gradient(0, weights, whole, 1.0)
    torch.testing.assert_close(parts, whole, **ROUNDING)
    torch.testing.assert_close(block.losses()[0], loss.full_data(weights), **ROUNDING)


@pytest.mark.parametrize("make", [wave_loss, lambda: potential_loss(bowl, SHAPES, 9)])
def test_a_chain_does_not_depend_on_its_stack(make):
    loss, weights = make(), points(CHAINS, seed=2)
    results = []
    for part in (slice(0, CHAINS), slice(1, 2)):
        here = select(weights, part)
        block = loss.select(part).block(here, loss.reference(here), 1)
        block.load(1, None)
        out = {name: torch.zeros_like(leaf) for name, leaf in here.items()}
        block.add_gradient(0, here, out, 1.0)
        results.append([block.losses()[0], block.baselines()[0], *out.values()])
    for whole, alone in zip(*results, strict=True):
        torch.testing.assert_close(whole[1:2], alone, **ROUNDING)


def test_a_potential_knows_no_minibatch():
    loss, weights = potential_loss(bowl, SHAPES, 1000), points(CHAINS, seed=2)
    assert loss.num_examples == 1000
    assert loss.numbers_per_step(10) == loss.numbers_per_step(1000) == 1
    block = loss.block(weights, loss.reference(points(1, seed=7)), STEPS)
    for chosen in (indices(CHAINS), indices(1), None):
        block.load(STEPS, chosen)
        out = {name: torch.zeros_like(leaf) for name, leaf in weights.items()}
        block.add_gradient(2, weights, out, 0.5)
        torch.testing.assert_close(block.losses()[2], bowl(weights), **ROUNDING)
        torch.testing.assert_close(out["a"], 0.5 * weights["a"], **ROUNDING)
        torch.testing.assert_close(out["b"], 2 * weights["b"].pow(3), **ROUNDING)
        base = bowl(points(1, seed=7)).expand(STEPS, CHAINS)
        torch.testing.assert_close(block.baselines(), base, **ROUNDING)


def test_the_posterior_takes_it():
    """U and ∇U at a point, against the formula, with leaves that are views of one buffer."""
    loss = potential_loss(bowl, SHAPES, 10)
    posterior = LocalPosterior.around(loss, points(1, seed=2), 3.0, 2.0, CHAINS)
    there = Layout(SHAPES, CHAINS).pack(points(CHAINS, seed=3))
    batches = posterior.block(1)
    batches.load(1, None)
    found = posterior.evaluate(batches, 0, there)
    gaps = {name: leaf - points(1, seed=2)[name] for name, leaf in there.leaves.items()}
    pull = gaps["a"].square() + gaps["b"].square().sum(-1)
    torch.testing.assert_close(found.potential, 3 * bowl(there.leaves) + pull, **ROUNDING)
    expected = 12 * there.leaves["b"].pow(3) + 2 * gaps["b"]
    torch.testing.assert_close(found.grad.leaves["b"], expected, **ROUNDING)


def test_a_parameter_that_the_loss_ignores_has_no_gradient():
    loss = potential_loss(lambda weights: weights["a"].square(), SHAPES, 5)
    weights = stack([select(points(1, seed=2), 0)])
    block = loss.block(weights, loss.reference(weights), 1)
    block.load(1, None)
    out = {name: torch.ones_like(leaf) for name, leaf in weights.items()}
    block.add_gradient(0, weights, out, 1.0)
    assert torch.equal(out["b"], torch.ones(1, 2, dtype=torch.float64))


def test_full_data_is_accumulated_in_float64():
    loss = FunctionLoss(lambda w, x: x.squeeze(-1) + 0 * w["a"], {"a": ()}, torch.full((7, 1), 0.1))
    value = loss.full_data({"a": torch.zeros(1, 1)})
    assert value.dtype == torch.float64
    assert float(value) == float(torch.tensor(0.1))


def test_rows_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"^num_examples=9: data has 24 rows: leave .* out[^\n]*$"):
        FunctionLoss(wave, SHAPES, normals(EXAMPLES, 2), num_examples=9)
