"""ResNet18 at width 64 is torchvision's; initialisations follow their generator alone."""

import math

import pytest
import torch
from torch import nn

from llc.models.image_mlp import image_mlp
from llc.models.resnet import ResNet18, resnet18
from llc.vision import torchvision


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def shapes(module):
    return {name: (tuple(t.shape), t.dtype) for name, t in module.state_dict().items()}


def same(one, other):
    states = (one.state_dict(), other.state_dict())
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def count(module):
    return sum(leaf.numel() for leaf in module.parameters())


def test_at_width_64_it_is_torchvisions():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        theirs = torchvision().models.resnet18(num_classes=10)
        torch.default_generator.manual_seed(5)
        ours = ResNet18(64, 10)
    assert count(ours) == count(theirs) == 11_181_642
    assert list(shapes(ours).items()) == list(shapes(theirs).items())
    assert same(ours, theirs)  # the very numbers of the initialisation
    images = torch.rand(2, 3, 32, 32, generator=source())  # few: no convolution takes its norm in
    for mode in (True, False):
        assert torch.equal(ours.train(mode)(images), theirs.train(mode)(images))
    assert same(ours, theirs)  # BatchNorm moved alike


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("classes", [2, 10])
def test_widths(width, classes):
    network = resnet18(width, source(), classes)
    channels = [
        stage[-1].conv2.out_channels
        for stage in network.children()
        if isinstance(stage, nn.Sequential)
    ]
    assert channels == [width, 2 * width, 4 * width, 8 * width]
    assert network(torch.rand(3, 3, 32, 32, generator=source())).shape == (3, classes)


def test_image_mlp():
    network = image_mlp([7, 5], source())
    kinds = [type(layer) for layer in network]
    assert kinds == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    sizes = [tuple(leaf.shape) for name, leaf in network.named_parameters() if "weight" in name]
    assert sizes == [(7, 3072), (5, 7), (10, 5)]
    assert network(torch.rand(3, 3, 32, 32, generator=source())).shape == (3, 10)
    assert [tuple(leaf.shape) for leaf in image_mlp([], source(), 3, 8).parameters()] == [
        (3, 8),
        (3,),
    ]


@pytest.mark.parametrize(
    "make", [lambda g: resnet18(2, g), lambda g: image_mlp([4], g)], ids=["resnet18", "mlp"]
)
def test_the_generator_decides_and_the_global_one_is_left_alone(make):
    before = torch.random.get_rng_state()
    first = make(source(1))
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.rand(3)  # whatever others draw meanwhile
        going = source(1)
        assert same(first, make(going))
        assert not same(first, make(going))  # a generator moves on
    assert not same(first, make(source(2)))


def test_a_convolution_and_its_norm_may_be_one_in_evaluation_mode(monkeypatch):
    """Output and gradient are the same but for rounding."""
    network = resnet18(4, source()).double().eval()
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    called = []
    for norm in norms:
        for leaf in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(leaf, 0.5, 1.5, generator=source(len(leaf)))
        norm.register_forward_hook(lambda *_: called.append(1))
    images = torch.rand(300, 3, 32, 32, generator=source(), dtype=torch.float64)
    results = []
    for many, calls in ((math.inf, len(norms)), (0, 0)):
        monkeypatch.setattr("llc.models.resnet.MANY", many)
        logits = network(images)
        loss = logits.logsumexp(1).sum()
        results.append((logits, *torch.autograd.grad(loss, list(network.parameters()))))
        assert len(called) == calls
        called.clear()
    for apart, one in zip(*results, strict=True):
        assert (apart - one).abs().max() < 1e-10 * apart.abs().max()
