"""Small convolutional networks, each with one way in which channels are coupled, or several as real ones have them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution, a batch norm and an activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


class Wired(nn.Module):
    """Modules, and a function that says how they are wired."""

    def __init__(self, wiring: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.wiring = wiring.__name__
        for name, module in modules.items():
            self.add_module(name, module)
        self._wiring = wiring

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n, 3]."""
        return self._wiring(self, x)


def _head(model: Wired, x: Tensor) -> Tensor:
    return model.head(x.mean((2, 3)))  # type: ignore[no-any-return,operator]


def plain() -> Wired:
    """Two convolutions with biases in a row."""

    def wiring(m: Wired, x: Tensor) -> Tensor:
        return _head(m, torch.relu(m.two(torch.relu(m.one(x)))))  # type: ignore[operator]

    return Wired(wiring, one=nn.Conv2d(3, 8, 3), two=nn.Conv2d(8, 6, 3), head=nn.Linear(6, 3))


def add() -> Wired:
    """A residual sum."""

    def wiring(m: Wired, x: Tensor) -> Tensor:
        x = m.stem(x)  # type: ignore[operator]
        return _head(m, x + m.block(x))  # type: ignore[operator]

    return Wired(wiring, stem=conv(3, 8), block=nn.Sequential(conv(8, 6), conv(6, 8)), head=nn.Linear(8, 3))


def concat() -> Wired:
    """Two branches side by side, as in a DenseNet."""

    def wiring(m: Wired, x: Tensor) -> Tensor:
        x = m.stem(x)  # type: ignore[operator]
        x = torch.cat([x, m.grow(x)], 1)  # type: ignore[operator]
        return _head(m, m.join(x))  # type: ignore[operator]

    return Wired(wiring, stem=conv(3, 8), grow=conv(8, 4), join=conv(12, 6, 1), head=nn.Linear(6, 3))


def chunk() -> Wired:
    """C2f: a half goes through a residual block, and all are joined again."""

    def wiring(m: Wired, x: Tensor) -> Tensor:
        y = list(m.cv1(x).chunk(2, 1))  # type: ignore[operator]
        y.append(y[-1] + m.m(y[-1]))  # type: ignore[operator]
        return _head(m, m.cv2(torch.cat(y, 1)))  # type: ignore[operator]

    return Wired(
        wiring, cv1=conv(3, 12), m=nn.Sequential(conv(6, 6), conv(6, 6)), cv2=conv(18, 8, 1), head=nn.Linear(8, 3)
    )


def depthwise() -> Wired:
    """An inverted residual block of MobileNet v2, ReLU6."""

    def wiring(m: Wired, x: Tensor) -> Tensor:
        return _head(m, m.project(m.depth(m.expand(x))))  # type: ignore[operator]

    return Wired(
        wiring, expand=conv(3, 12, 1), depth=conv(12, 12, groups=12), project=conv(12, 8, 1), head=nn.Linear(8, 3)
    )


def grouped() -> Wired:
    """A grouped convolution, as in ResNeXt: groups of four channels."""

    def wiring(m: Wired, x: Tensor) -> Tensor:
        return _head(m, m.last(m.groups(m.first(x))))  # type: ignore[operator]

    return Wired(wiring, first=conv(3, 16), groups=conv(16, 8, groups=4), last=conv(8, 8, 1), head=nn.Linear(8, 3))


def flatten() -> Wired:
    """A linear layer reads every place of a channel."""

    def wiring(m: Wired, x: Tensor) -> Tensor:
        return m.head(torch.relu(m.hidden(m.pool(m.stem(x)).flatten(1))))  # type: ignore[operator,no-any-return]

    pool = nn.AdaptiveMaxPool2d(2)
    return Wired(wiring, stem=conv(3, 8), pool=pool, hidden=nn.Linear(32, 10), head=nn.Linear(10, 3))


def squeeze() -> Wired:
    """Squeeze and excitation with hard sigmoids and hard swish, as in MobileNet v3."""

    def wiring(m: Wired, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(m.stem(x))  # type: ignore[operator]
        gate = nn.functional.hardsigmoid(m.up(torch.relu(m.down(x.mean((2, 3), keepdim=True)))))  # type: ignore[operator]
        return _head(m, m.last(x * gate))  # type: ignore[operator]

    return Wired(
        wiring,
        stem=conv(3, 12),
        down=nn.Conv2d(12, 4, 1),
        up=nn.Conv2d(4, 12, 1),
        last=conv(12, 8),
        head=nn.Linear(8, 3),
    )


def unet() -> Wired:
    """A skip that is joined after resizing."""

    def wiring(m: Wired, x: Tensor) -> Tensor:
        skip = m.left(x)  # type: ignore[operator]
        low = m.low(nn.functional.max_pool2d(skip, 2))  # type: ignore[operator]
        up = nn.functional.interpolate(low, scale_factor=2, mode="bilinear")
        return _head(m, m.right(torch.cat([skip, up], 1)))  # type: ignore[operator]

    return Wired(wiring, left=conv(3, 8), low=conv(8, 12), right=conv(20, 8), head=nn.Linear(8, 3))


def shuffled() -> Wired:
    """A channel shuffle by reshaping, as in ShuffleNet."""

    def wiring(m: Wired, x: Tensor) -> Tensor:
        x = torch.cat([m.one(x), m.two(x)], 1)  # type: ignore[operator]
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        left, right = x.split(c // 2, 1)
        return _head(m, torch.cat([m.left(left), m.right(right)], 1))  # type: ignore[operator]

    return Wired(wiring, one=conv(3, 8), two=conv(3, 8), left=conv(8, 4), right=conv(8, 4), head=nn.Linear(8, 3))


def norms() -> Wired:
    """Group norm, where four channels live together, instance norm, and a scale for each channel."""

    def wiring(m: Wired, x: Tensor) -> Tensor:
        x = torch.relu(m.group(m.one(x)))  # type: ignore[operator]
        return _head(m, torch.relu(m.each(m.two(x))) * m.scale.weight.view(-1, 1, 1))  # type: ignore[operator,union-attr]

    scale = nn.Module()
    scale.weight = nn.Parameter(torch.ones(6))
    each = nn.InstanceNorm2d(6, affine=True)
    return Wired(
        wiring,
        one=nn.Conv2d(3, 16, 3),
        group=nn.GroupNorm(4, 16),
        two=nn.Conv2d(16, 6, 3),
        each=each,
        scale=scale,
        head=nn.Linear(6, 3),
    )


def upsample() -> Wired:
    """A transposed convolution, whose weight has outputs second, between two others."""

    def wiring(m: Wired, x: Tensor) -> Tensor:
        return _head(m, torch.relu(m.last(torch.relu(m.up(torch.relu(m.first(x)))))))  # type: ignore[operator]

    return Wired(
        wiring,
        first=nn.Conv2d(3, 6, 3),
        up=nn.ConvTranspose2d(6, 8, 2, 2),
        last=nn.Conv2d(8, 10, 3),
        head=nn.Linear(10, 3),
    )


def uneven() -> Wired:
    """Some channels meet two rows of another layer, some meet one."""

    def wiring(m: Wired, x: Tensor) -> Tensor:
        more = m.two(x)  # type: ignore[operator]
        x = m.one(x) + more[:, :8]  # type: ignore[operator]
        return _head(m, torch.cat([x[:, :4] + more[:, 8:], x[:, 4:]], 1))

    return Wired(wiring, one=conv(3, 8), two=conv(3, 12), head=nn.Linear(8, 3))


def yolo() -> Wired:
    """Backbone, C2f, SPPF and a neck, on two scales with one shared head."""

    def c2f(m: Wired, x: Tensor) -> Tensor:
        y = list(m.cv1(x).chunk(2, 1))  # type: ignore[operator]
        y.append(y[-1] + m.m2(m.m1(y[-1])))  # type: ignore[operator]
        return m.cv2(torch.cat(y, 1))  # type: ignore[operator,no-any-return]

    def wiring(m: Wired, x: Tensor) -> Tensor:
        high = c2f(m, m.stem(x))  # type: ignore[operator]
        x = m.sppf1(m.down(high))  # type: ignore[operator]
        y1 = nn.functional.max_pool2d(x, 5, 1, 2)
        y2 = nn.functional.max_pool2d(y1, 5, 1, 2)
        low = m.sppf2(torch.cat([x, y1, y2], 1))  # type: ignore[operator]
        up = nn.functional.interpolate(low, scale_factor=2)
        high = m.neck(torch.cat([up, high], 1))  # type: ignore[operator]
        low = m.again(high)  # type: ignore[operator]
        return m.head(high).mean((2, 3)) + m.head(low).mean((2, 3))  # type: ignore[operator,no-any-return]

    return Wired(
        wiring, stem=conv(3, 8, stride=2), cv1=conv(8, 12), m1=conv(6, 6), m2=conv(6, 6), cv2=conv(18, 8, 1),
        down=conv(8, 12, stride=2), sppf1=conv(12, 6, 1), sppf2=conv(18, 12, 1), neck=conv(20, 8), again=conv(8, 8, stride=2),
        head=nn.Sequential(conv(8, 6), nn.Conv2d(6, 3, 1)),
    )  # fmt: skip


NETWORKS = {
    each.__name__: each
    for each in (
        plain, add, concat, chunk, depthwise, grouped, flatten, squeeze, unet, shuffled, upsample, norms, uneven, yolo,
    )
}  # fmt: skip


def network(name: str) -> Wired:
    """Return a network with random weights, always the same."""
    torch.manual_seed(0)
    return NETWORKS[name]()
