"""A short trial: torch's dense product or convolution against sparse ones, in turn, on the same input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsify.engine.chosen import DENSE
from sparsify.engine.convolution import sparse_convolution
from sparsify.engine.convolutional import window_of
from sparsify.engine.operator import sparse_linear
from sparsify.engine.rules import Convolution, Layer
from sparsify.report.latency import timed

ROUNDS, FEWEST_ROUNDS = 30, 5
SECONDS = 0.4
"""After which a trial ends, once there were `FEWEST_ROUNDS`."""

MOST_TOKENS = 512
"""More tokens than these give the same ratio, and take longer."""

MOST_PLACES = 4096
"""The same for the outputs of convolutions, but that whole images are taken, and one at least."""

TOLERANCE = 1e-4
"""How far an output may be from the dense one, relative to the largest: both are sums in float32."""


@dataclass(frozen=True)
class Trial:
    """The shortest time of each kernel, in seconds, and what was wrong."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    wrong: str = ""
    """Why the engine cannot be used for this layer: it computes something else."""


LAST = "dense, channels last"
"""A dense convolution whose tensors have their channels last in memory; the faster of the two is `dense`."""

Calls = dict[str, Callable[[], Tensor]]


@torch.inference_mode()
def tried(layer: Layer, packed: Mapping[str, Tensor], like: Tensor) -> Trial:
    """Time a layer with its dense weight and each packed one, on random input of the sizes that `like` has.

    The shortest of many times is taken: what else the machine does only adds to a time.
    """
    calls = _convolutions(layer, packed, like) if isinstance(layer, Convolution) else _products(layer, packed, like)
    expected = calls[DENSE]()
    largest = max(float(expected.abs().max()), 1e-30)
    for name in packed:
        apart = float((calls[name]() - expected).abs().max()) / largest
        if not apart <= TOLERANCE and bool(expected.isfinite().all()):
            return Trial(wrong=f"the engine's output ({name}) is off by {apart:.2g} of the largest")
    began = perf_counter()
    for call in calls.values():
        call()
    rounds = min(ROUNDS, max(FEWEST_ROUNDS, int(SECONDS / max(perf_counter() - began, 1e-6) / 2)))
    times = timed(list(calls.values()), rounds, least=FEWEST_ROUNDS, seconds=SECONDS, warm_up=1)
    found = {name: min(spent) for name, spent in zip(calls, times, strict=True)}
    found[DENSE] = min(found[DENSE], found.pop(LAST, found[DENSE]))
    return Trial(found)


def places(layer: Layer, like: Tensor) -> int:
    """Return for how many tokens, or places of a convolution's outputs, an input asks."""
    if not isinstance(layer, Convolution):
        return like.numel() // max(like.shape[-1], 1)
    weight: Any = layer.module.weight
    made = _dense(layer, torch.empty(like.shape, device="meta"), torch.empty(weight.shape, device="meta"))
    return made.numel() // layer.shape[0]


def _products(layer: Layer, packed: Mapping[str, Tensor], like: Tensor) -> Calls:
    weight, bias = layer.weight, _bias_of(layer)
    rows, columns = layer.shape
    given = torch.randn(min(places(layer, like), MOST_TOKENS), columns, generator=torch.Generator().manual_seed(0))
    calls: Calls = {DENSE: partial(functional.linear, given, weight, bias)}
    for name, each in packed.items():
        calls[name] = partial(sparse_linear, given, each, bias, rows)
    return calls


def _convolutions(layer: Layer, packed: Mapping[str, Tensor], like: Tensor) -> Calls:
    """Return dense and sparse convolutions of as many of the images as are enough, in the order that they have."""
    window, bias, rows = window_of(layer.module), _bias_of(layer), layer.shape[0]
    weight: Any = layer.module.weight
    sides, batched = weight.dim() - 2, like.dim() == weight.dim()
    images = like.shape[0] if batched else 1
    enough = min(images, max(1, MOST_PLACES * images // max(places(layer, like), 1)))
    sizes = (enough, *like.shape[-sides - 1 :])
    given = torch.randn(sizes, generator=torch.Generator().manual_seed(0))
    calls: Calls = {DENSE: partial(_dense, layer, given, weight.detach())}
    mine = given
    if sides == 2:
        last = given.to(memory_format=torch.channels_last)
        mine = last if batched and like.is_contiguous(memory_format=torch.channels_last) else given
        calls[LAST] = partial(_dense, layer, last, weight.detach().to(memory_format=torch.channels_last))
    else:
        mine = given.unsqueeze(2)
    for name, each in packed.items():
        calls[name] = partial(_like_dense, mine, each, window, rows, bias, sides)
    return calls


def _dense(layer: Layer, given: Tensor, weight: Tensor) -> Tensor:
    made: Any = layer.module
    call: Any = functional.conv2d if weight.dim() == 4 else functional.conv1d
    bias = None if weight.is_meta else _bias_of(layer)
    found: Tensor = call(given, weight, bias, made.stride, made.padding, made.dilation)
    return found


def _like_dense(given: Tensor, packed: Tensor, window: Any, rows: int, bias: Tensor | None, sides: int) -> Tensor:
    y = sparse_convolution(given, packed, window, rows, bias=bias)
    return y if sides == 2 else y.squeeze(2)


def _bias_of(layer: Layer) -> Tensor | None:
    bias: Any = layer.module.bias
    assert bias is None or isinstance(bias, Tensor)
    return bias
