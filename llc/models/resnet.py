"""ResNet18 of any width (He et al. 2016), from torchvision's blocks."""

from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from llc.streams import drawing_from
from llc.vision import torchvision

MANY = 2**16  # outputs of a convolution; fewer cost less than the dozen operations on its weights


class ResNet18(nn.Module):
    """Channels (k, 2k, 4k, 8k), k = `width`; at k = 64 torchvision's resnet18, to the name."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (B, 3, h, w) -> logits (B, classes)."""
        hidden = self.maxpool(self.relu(_normed(self.conv1, self.bn1, inputs)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                hidden = _through(block, hidden)
        logits: Tensor = self.fc(self.avgpool(hidden).flatten(1))
        return logits


def resnet18(width: int, generator: torch.Generator, classes: int = 10) -> ResNet18:
    """A fresh network, initialised as torchvision does, by numbers that `generator` determines."""
    with drawing_from(generator):
        return ResNet18(width, classes)


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Two basic blocks; where the first changes the shape, so does its shortcut."""
    block = torchvision().models.resnet.BasicBlock
    shortcut = None
    if stride > 1:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(outputs),
        )
    return nn.Sequential(block(inputs, outputs, stride, shortcut), block(outputs, outputs))


def _through(block: Any, inputs: Tensor) -> Tensor:
    """What torchvision's basic block computes, a convolution and its BatchNorm at a time."""
    hidden = block.relu(_normed(block.conv1, block.bn1, inputs))
    hidden = _normed(block.conv2, block.bn2, hidden)
    shortcut = inputs
    if block.downsample is not None:
        conv, norm = block.downsample
        shortcut = _normed(conv, norm, inputs)
    outputs: Tensor = block.relu(hidden + shortcut)
    return outputs


def _normed(conv: nn.Conv2d, norm: nn.BatchNorm2d, inputs: Tensor) -> Tensor:
    """norm(conv(inputs)); as one convolution where norm is in evaluation mode, and that is faster:

        g (W∗x − μ)/√(σ² + ϵ) + b = (s W)∗x + (b − s μ),   s = g/√(σ² + ϵ).
    Then the backward pass neither holds W∗x nor sums over it, but the weights are scaled.
    """
    if norm.training or not _many(conv, inputs):
        normed: Tensor = norm(conv(inputs))
        return normed
    mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    bias = torch.addcmul(norm.bias, mean, scale, value=-1)
    weight = conv.weight * scale.view(-1, 1, 1, 1)
    return conv2d(inputs, weight, bias, conv.stride, conv.padding)


def _many(conv: nn.Conv2d, inputs: Tensor) -> bool:
    """Whether passes over a convolution's outputs cost more than those over its weights.

    Measured on the CPU; on CUDA, not measured, every small operation is a launch.
    """
    of_each_channel = inputs[:, 0].numel() // prod(conv.stride)
    outputs = conv.out_channels * of_each_channel
    on_cpu = inputs.device.type == "cpu"
    return on_cpu and outputs >= MANY and of_each_channel >= conv.weight[0].numel()
