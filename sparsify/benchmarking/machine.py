"""What a measurement was made on, and how fast that multiplies dense matrices."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from sparsify.benchmarking.medians import spread_of
from sparsify.report.latency import Call

SIDE = 1024
"""Rows and columns of the matrices: large enough for the whole rate, and done in a few hundredths of a second."""


class Rate(BaseModel):
    """Floating-point operations a second of one dense product in float32, over the rounds."""

    model_config = ConfigDict(frozen=True, strict=True)

    best: float
    median: float


def machine() -> str:
    """Return processor, threads and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"


def product() -> Call:
    """Return a call that multiplies two matrices of random numbers."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIDE, SIDE, generator=generator) for _ in range(2))
    out = torch.empty(SIDE, SIDE)
    return lambda: torch.mm(left, right, out=out)


def rate_of(seconds: Sequence[float]) -> Rate:
    """Return the rate of such products, from the seconds of each."""
    flops = 2 * SIDE**3
    return Rate(best=flops / min(seconds), median=flops / spread_of(seconds).median)
