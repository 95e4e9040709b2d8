import pytest
import torch
from test_checkpoints import assert_equal, with_kills
from torch.nn.functional import cross_entropy

from llc.checkpoints import Keeper
from llc.config import TrainingConfig
from llc.models.image_mlp import image_mlp
from llc.models.resnet import resnet18
from llc.streams import ShuffledBatches, Stream, generator
from llc.training import train_classifier

N, SIZE, STREAM = 40, 8, Stream(3)
SOURCE = torch.Generator().manual_seed(0)
INPUTS = torch.rand(N, 3, 32, 32, generator=SOURCE)
LABELS = torch.randint(10, (N,), generator=SOURCE)


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr("llc.checkpoints.SHARE", float("inf"))


def network():
    return resnet18(2, generator(STREAM, "model"))


def config(**changes):
    return TrainingConfig(
        **{"learning_rate": 0.1, "momentum": None, "batch_size": SIZE, "num_steps": 6} | changes
    )


@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize(
    ("changes", "optimiser"),
    [
        ({}, lambda weights: torch.optim.SGD(weights, lr=0.1)),
        ({"momentum": 0.9}, lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9)),
        ({"optim": "adam"}, lambda weights: torch.optim.Adam(weights, lr=0.1)),
    ],
)
def test_training_is_the_plain_pytorch_loop(changes, optimiser, l2):
    module, twin = network(), network().train()
    *_, end = train_classifier(module, INPUTS, LABELS, config(**changes), STREAM, 6, l2=l2)
    batches = ShuffledBatches([STREAM], N, SIZE, torch.device("cpu"), "training_batches")
    stepper, losses = optimiser(twin.parameters()), []
    for rows in batches.draw(6).squeeze(1):
        stepper.zero_grad()
        loss = cross_entropy(twin(INPUTS[rows]), LABELS[rows])
        loss = loss + l2 * sum(leaf.square().sum() for leaf in twin.parameters())
        loss.backward()
        stepper.step()
        losses.append(loss.item())
    assert end.losses.tolist() == pytest.approx(losses, rel=1e-5)
    for name, value in twin.state_dict().items():  # BatchNorm's running statistics among them
        torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert_equal(end.params, {k: v.detach() for k, v in module.named_parameters()})


def test_the_module_stands_at_the_checkpoint_that_was_yielded():
    module, seen = network(), []
    for point in train_classifier(module, INPUTS, LABELS, config(), STREAM, 4):
        seen.append(point.step)
        assert_equal(point.params, {k: v.detach() for k, v in module.named_parameters()})
        module.eval()  # whatever its user does with it meanwhile
    assert seen == [0, 4, 6]
    assert int(module.state_dict()["bn1.num_batches_tracked"]) == 6


@pytest.mark.parametrize("optim", ["sgd", "adam"])
def test_training_goes_on_to_the_last_bit(optim, tmp_path):
    settings = config(optim=optim, momentum=0.9, num_steps=9)

    def work(keeper):
        module = network()
        points = keeper.kept("points") or {}
        for point in train_classifier(module, INPUTS, LABELS, settings, STREAM, 4, keeper=keeper):
            buffers = {name: leaf.clone() for name, leaf in module.named_buffers()}
            points[point.step] = {**point.params, **buffers, "losses": point.losses}
            keeper.keep("points", points)
            keeper.tick()
        return points

    whole = work(Keeper())
    resumed, kills = with_kills(tmp_path / "c.pt", work, [0, 1, 2, 3, 2])
    assert kills == 5
    assert list(resumed) == list(whole) == [0, 4, 8, 9]
    for step, point in whole.items():
        assert_equal(point, resumed[step])


def test_half_precision_is_for_the_forward_pass_only():
    module = image_mlp((8,), generator(STREAM, "model"))
    *_, end = train_classifier(module, INPUTS, LABELS, config(), STREAM, 6, autocast=torch.bfloat16)
    assert all(leaf.dtype == torch.float32 for leaf in end.params.values())
    twin = image_mlp((8,), generator(STREAM, "model"))
    *_, exact = train_classifier(twin, INPUTS, LABELS, config(), STREAM, 6)
    torch.testing.assert_close(end.losses, exact.losses, rtol=0.02, atol=0.02)
    assert not torch.equal(end.losses, exact.losses)
