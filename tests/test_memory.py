"""A run holds three stacks and w*, and what one forward-backward pass holds.

On one thread, as tests run: others' tensors are not seen, and each holds a gradient of its own.
"""

import pytest
import torch
from library_models import filled, numbers, source
from live_bytes import LiveBytes
from torch import nn
from torch.nn.functional import cross_entropy

from llc import estimate_llc, grid
from llc.calibrate import calibrate
from llc.config import SGLDConfig
from llc.library.data import Examples
from llc.library.losses import Objective
from llc.library.losses import cross_entropy as per_example
from llc.library.network import copied
from llc.library.places import Places
from llc.library.stacked import LibraryLoss
from llc.streams import PART

WIDTH, BATCH, EXAMPLES, CLASSES = 700, 4, 40, 5
BYTES = 4  # float32
# The normals of a part, and traces and minibatches, which are small here.
REST = BYTES * PART + 2**20


def network():
    layers = [part for _ in range(3) for part in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    return filled(nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES)))


def data():
    return numbers(EXAMPLES, WIDTH), torch.randint(CLASSES, (EXAMPLES,), generator=source())


def peak(model, **options):
    common = {"epsilon": 1e-8, "num_draws": 22, "batch_size": BATCH, "companions": False}
    inputs = data()
    with LiveBytes() as live:
        estimate_llc(model, inputs, **{**common, **options}, progress=False)
    assert live.now < 2**20
    return live.peak


def pass_of(model):
    """What the model's own forward-backward pass on a batch holds, its gradient included."""
    inputs, labels = (part[:BATCH] for part in data())
    with LiveBytes() as live:
        torch.autograd.grad(cross_entropy(model(inputs), labels), list(model.parameters()))
    return live.peak


def bound(model, stack, passes):
    size = BYTES * sum(leaf.numel() for leaf in model.parameters())
    return size * (3 * stack + 1) + passes * pass_of(model) + REST


@pytest.mark.parametrize("engine", ["plain", "vmap"])
@pytest.mark.parametrize("stack", [1, 2])
def test_a_run_holds_three_stacks_and_the_centre(stack, engine):
    model = network()
    most = bound(model, stack, stack if engine == "vmap" else 1)
    found = peak(model, engine=engine, chains_per_stack=stack, num_chains=stack + 1)
    # The most it may be, and what it must be at least for this test to see anything.
    assert 0.7 * most < found < most


def test_a_stack_of_points_of_a_grid_holds_nine_and_the_centre():
    model = network()
    size = BYTES * sum(leaf.numel() for leaf in model.parameters())
    options = {"num_draws": 22, "batch_size": BATCH, "companions": False, "engine": "plain"}
    inputs = data()
    with LiveBytes() as live:
        grid(
            model, inputs, epsilon=[1e-8, 2e-8], num_chains=1, chains_per_stack=2, progress=False,
            **options,
        )  # fmt: skip
    assert live.now < 2**20
    most = (9 * 2 + 1) * size + pass_of(model) + REST
    assert 0.7 * most < live.peak < most


def test_the_check_at_the_centre_and_the_choice_of_an_engine_stay_below_it():
    model = network()
    assert peak(model, chains_per_stack=1, num_chains=2) < bound(model, 1, 1)


def test_companions_park_two_positions_each():
    model = network()
    size = BYTES * sum(leaf.numel() for leaf in model.parameters())
    most = bound(model, 1, 1) + 2 * 2 * size
    assert peak(model, engine="plain", chains_per_stack=1, num_chains=2, companions=True) < most


def test_the_search_for_epsilon_parks_two_positions_a_chain():
    model, chains = network(), 2
    size = BYTES * sum(leaf.numel() for leaf in model.parameters())
    config = SGLDConfig(epsilon="auto", num_steps=1000, num_chains=chains, batch_size=BATCH)
    with LiveBytes() as live:
        examples, objective = Examples(*data()), Objective(per_example, mean=False)
        loss = LibraryLoss(copied(model, None), examples, objective, BATCH, "plain")
        centre = {name: leaf[0] for name, leaf in loss.centre.items()}
        stacks = Places(loss, [torch.device("cpu")], chains_per_stack=1)
        calibrate(loss, centre, nbeta=10.0, sgld_config=config, stacks=stacks)
    assert 0.7 * bound(model, 1, 1) < live.peak < bound(model, 1, 1) + 2 * chains * size
