"""A short trial: a dense product against sparse ones, in turn, on the same input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import functional

from sparsify.engine.chosen import DENSE
from sparsify.engine.operator import sparse_linear
from sparsify.engine.rules import Layer
from sparsify.report.latency import timed

ROUNDS, FEWEST_ROUNDS = 30, 5
SECONDS = 0.4
"""After which a trial ends, once there were `FEWEST_ROUNDS`."""

MOST_TOKENS = 512
"""More tokens than these give the same ratio, and take longer."""

TOLERANCE = 1e-4
"""How far an output may be from the dense one, relative to the largest: both are sums in float32."""


@dataclass(frozen=True)
class Trial:
    """The shortest time of each kernel, in seconds, and what was wrong."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    wrong: str = ""
    """Why the engine cannot be used for this layer: it computes something else."""


@torch.inference_mode()
def tried(layer: Layer, packed: Mapping[str, Tensor], tokens: int) -> Trial:
    """Time a layer with its dense weight and each packed one, on `tokens` rows of random input.

    The shortest of many times is taken: what else the machine does only adds to a time.
    """
    weight, bias = layer.weight, layer.module.bias
    assert bias is None or isinstance(bias, Tensor)
    rows, columns = layer.shape
    made = torch.Generator().manual_seed(0)
    given = torch.randn(min(tokens, MOST_TOKENS), columns, generator=made)
    calls = {DENSE: partial(functional.linear, given, weight, bias)}
    for name, each in packed.items():
        calls[name] = partial(sparse_linear, given, each, bias, rows)
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
    return Trial({name: min(spent) for name, spent in zip(calls, times, strict=True)})
