"""A small residual network, as everyone writes it, for 8 × 8 images; called as the models of transformers are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

STAGES = ((16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
"""(channels in, channels out, stride) of the blocks."""


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions around which the input is added (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """Six blocks of 16, 32 and 64 channels."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, STAGES[0][0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(STAGES[0][0])
        self.blocks = nn.Sequential(*(BasicBlock(*stage) for stage in STAGES))
        self.classifier = nn.Linear(STAGES[-1][1], classes)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
        """Return an object with `logits` [n, classes], and `loss` if there are labels."""
        hidden = self.blocks(torch.relu(self.bn(self.stem(pixel_values))))
        logits = self.classifier(hidden.mean(dim=(2, 3)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SimpleNamespace(loss=loss, logits=logits)


def resnet(seed: int) -> nn.Module:
    """Return the network with random weights."""
    torch.manual_seed(seed)
    return ResNet()
