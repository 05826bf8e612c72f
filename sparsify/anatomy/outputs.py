"""What a model returned, as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of real numbers in what a model returned, detached; those of a cache are left out."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output.detach()
    elif isinstance(output, (Mapping, list, tuple)):
        for each in output.values() if isinstance(output, Mapping) else output:
            yield from tensors(each)
