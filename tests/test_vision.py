"""torchvision imports beside any torch, and only when it is asked for."""

import subprocess
import sys

import torch

from llc.vision import torchvision


def run(code):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], text=True, check=True)


def test_datasets_and_models_are_there():
    module = torchvision()
    assert module is torchvision() is sys.modules["torchvision"]
    assert callable(module.datasets.CIFAR10)
    network = module.models.resnet18(num_classes=10).eval()
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_nothing_loads_it_on_import():
    run(
        "import sys, llc.vision, llc.data, llc.models.modules, llc.models.resnet, llc.estimate; "
        "assert not {'torchvision', 'sklearn'} & set(sys.modules)"
    )


def test_it_comes_without_warnings_in_a_fresh_process():
    run("from llc.vision import torchvision; torchvision().models.resnet18")
