"""Training against torch.optim on a plain module, and what a checkpoint holds."""

import itertools

import pytest
import torch
from oracles import normals
from torch import nn

from llc.config import TrainingConfig
from llc.models import mlp
from llc.models.dln import LinearLoss
from llc.models.mlp import MLPLoss
from llc.streams import ShuffledBatches, Stream
from llc.training import train

N, SIZE, WIDTHS, STREAM = 30, 7, (3, 5, 2), Stream(4)


def config(**options):
    return TrainingConfig(
        **({"batch_size": SIZE, "num_steps": 25, "learning_rate": 0.02} | options)
    )


def problem():
    source = torch.Generator().manual_seed(0)
    start = mlp.init(WIDTHS, source, torch.float64)
    inputs, targets = normals(N, 3), normals(N, 2, seed=1)
    return MLPLoss(inputs, targets, WIDTHS), start, inputs, targets


def batches(count):
    draws = ShuffledBatches([STREAM], N, SIZE, torch.device("cpu"), "training_batches")
    return draws.draw(count)[:, 0].long()


def by_hand(optimiser, steps):
    """The same minibatches through nn.Module, autograd and torch.optim."""
    _, start, inputs, targets = problem()
    module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    with torch.no_grad():
        for parameter, leaf in zip(module.parameters(), start.values(), strict=True):
            parameter.copy_(leaf)
    chosen, losses = optimiser(module.parameters()), []
    for rows in batches(steps):
        chosen.zero_grad()
        loss = (module(inputs[rows]) - targets[rows]).square().mean()
        loss.backward()
        chosen.step()
        losses.append(loss.item())
    return [parameter.detach() for parameter in module.parameters()], losses


OPTIMISERS = {
    "plain": (config(momentum=None), lambda p: torch.optim.SGD(p, 0.02)),
    "zero": (config(momentum=0.0), lambda p: torch.optim.SGD(p, 0.02)),
    "momentum": (config(momentum=0.8), lambda p: torch.optim.SGD(p, 0.02, momentum=0.8)),
    "adam": (config(optim="adam"), lambda p: torch.optim.Adam(p, 0.02)),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_training_is_that_of_torch_optim(name):
    settings, optimiser = OPTIMISERS[name]
    loss, start, *_ = problem()
    before = {key: leaf.clone() for key, leaf in start.items()}
    _, last = train(loss, start, settings, STREAM, every=25)
    expected, losses = by_hand(optimiser, 25)
    # 25 contracting steps of double rounding; Adam divides by gradients of 1e-3 and more.
    for leaf, other in zip(last.params.values(), expected, strict=True):
        torch.testing.assert_close(leaf, other, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(
        last.losses, torch.tensor(losses, dtype=torch.float64), rtol=1e-8, atol=1e-9
    )
    assert all(torch.equal(start[key], before[key]) for key in start)


def test_one_step_by_hand():
    inputs, teacher = normals(N, 3), normals(2, 3, seed=1)
    start = {"layer1": normals(2, 3, seed=2)}
    loss = LinearLoss(inputs, teacher, (3, 2))
    _, after = train(loss, start, config(num_steps=1, momentum=None), STREAM, every=1)
    rows = inputs[batches(1)[0]]
    gap = start["layer1"] - teacher
    gradient = 2 / (SIZE * 2) * gap @ rows.T @ rows
    torch.testing.assert_close(after.params["layer1"], start["layer1"] - 0.02 * gradient)
    torch.testing.assert_close(after.losses, (rows @ gap.T).square().mean().view(1))


@pytest.mark.parametrize(
    ("num_steps", "every", "steps"),
    [
        (250, 100, [100, 200, 250]),
        (250, 1000, [250]),
        (250, 250, [250]),
        (240, 120, [120, 240]),
        (3, 1, [1, 2, 3]),
    ],
)
def test_checkpoints_come_every_so_often_and_at_the_end(num_steps, every, steps):
    loss, start, *_ = problem()
    settings = config(num_steps=num_steps)
    points = list(train(loss, start, settings, STREAM, every))
    assert [point.step for point in points] == [0, *steps]
    assert [len(point.losses) for point in points] == [
        0,
        *(b - a for a, b in itertools.pairwise([0, *steps])),
    ]
    _, whole = train(loss, start, settings, STREAM, num_steps)
    assert torch.equal(torch.cat([point.losses for point in points]), whole.losses)
    for name, leaf in whole.params.items():
        assert torch.equal(points[-1].params[name], leaf)
        # Copies: later steps leave earlier checkpoints alone, and the caller's start.
        assert torch.equal(points[0].params[name], start[name])
        assert not torch.equal(points[-2].params[name], leaf)


def test_the_stream_decides_the_batches():
    loss, start, *_ = problem()
    one, same, other = (
        list(train(loss, start, config(), stream, 25))[1].losses
        for stream in (STREAM, STREAM, Stream(5))
    )
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_a_batch_of_everything():
    loss, start, *_ = problem()
    _, after = train(loss, start, config(batch_size=N, num_steps=3), STREAM, every=3)
    stacked = {name: leaf.unsqueeze(0) for name, leaf in start.items()}
    torch.testing.assert_close(after.losses[:1], loss.full_data(stacked))


def test_a_blow_up_is_no_exception():
    loss, start, *_ = problem()
    _, after = train(loss, start, config(learning_rate=1e3, num_steps=200), STREAM, every=200)
    assert not after.losses[-1].isfinite()
    assert not all(leaf.isfinite().all() for leaf in after.params.values())
