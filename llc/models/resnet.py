"""ResNet18 of any width (He et al. 2016), from torchvision's blocks."""

import torch
from torch import Tensor, nn

from llc.streams import drawing_from
from llc.vision import torchvision


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
        hidden = self.maxpool(self.relu(self.bn1(self.conv1(inputs))))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
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
