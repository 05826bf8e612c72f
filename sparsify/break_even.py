"""From how many zeros on the sparse engine is faster than a dense product, as measured; data for plans and reports."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

FILE = Path(__file__).with_suffix(".json")
"""Written by `benchmarks/break_even.py`: instruction set → kernel → [(zeros, times as fast as dense), …]."""

INSTRUCTIONS: Mapping[str, str] = {"AVX512": "AVX-512", "AVX2": "AVX2"}
"""What torch says of the processor, and the instruction set that the engine takes there."""

ELSE = "portable"
ANYWHERE, CONVOLUTION = "unstructured", "convolution"
"""Kernels of the table that are no blocks."""

WORDS: Mapping[str, str] = {ANYWHERE: "zeros anywhere", CONVOLUTION: "zeros in convolutions"}

LEAST = 0.3
"""With fewer zeros the engine is not spoken of."""

Curve = Sequence[tuple[float, float]]


@cache
def measured() -> Mapping[str, Mapping[str, Curve]]:
    """Return how many times as fast as torch's dense product the engine was, by instruction set and kernel."""
    found: Any = json.loads(FILE.read_text(encoding="utf-8"))["faster"]
    return {
        name: {kernel: [(float(zeros), float(times)) for zeros, times in points] for kernel, points in kernels.items()}
        for name, kernels in found.items()
    }


def instructions() -> str:
    """Return the instruction set that the engine has on this processor."""
    return INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), ELSE)


def pays_from(curve: Curve) -> float | None:
    """Return the smallest fraction of zeros from which the engine is faster; None where it never was."""
    for (zeros, slow), (more, fast) in itertools.pairwise(curve):
        if slow < 1 <= fast:
            return zeros + (more - zeros) * (1 - slow) / (fast - slow)
    return curve[0][0] if curve[0][1] >= 1 else None


def times(curve: Curve, zeros: float) -> float:
    """Return how many times as fast it is with so many zeros: between what was measured, or at its ends."""
    if zeros <= curve[0][0]:
        return curve[0][1]
    for (least, slow), (most, fast) in itertools.pairwise(curve):
        if zeros <= most:
            return slow + (fast - slow) * (zeros - least) / (most - least)
    return curve[-1][1]


def sentence(zeros: float | None = None, *, kernel: str = ANYWHERE) -> str:
    """Return what is to be said of this processor, and of layers with so many zeros that a kernel multiplies."""
    curves = measured()[instructions()]
    parts = [
        f"{WORDS.get(name, f'blocks of {name}')} from {found:.0%}"
        for name, curve in curves.items()
        if (found := pays_from(curve)) is not None
    ]
    said = f"on this CPU ({instructions()}) the sparse engine multiplies faster than torch: {', '.join(parts)}"
    if zeros is None:
        return said
    found = times(curves[kernel], zeros)
    here = f"about {found:.1f} times as fast" if found >= 1 else "no faster"
    layers = "convolutions" if kernel == CONVOLUTION else "linear layers"
    return f"{said}; {layers} with {zeros:.0%} zeros are {here}"
