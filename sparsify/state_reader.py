"""Reading saved states: every value is checked before anything is taken up. Errors are StateErrors that say where."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sparsify.errors import StateError

LONGEST = 80
"""Characters of a wrong value that a message shows."""
MOST = 2**53
"""The largest whole number that a state may hold."""


class StateReader:
    """A mapping in a saved state, at `path`. Raises StateError for what is missing or wrong."""

    def __init__(self, value: Any, path: str = "state") -> None:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise StateError(f"{path}: expected a mapping with names, got {_shown(value)}")
        self._value: Mapping[str, Any] = value
        self.path = path

    def __iter__(self) -> Iterator[str]:
        return iter(self._value)

    def __contains__(self, key: str) -> bool:
        return key in self._value

    def fail(self, key: str, message: str) -> StateError:
        """Return an error about one value."""
        return StateError(f"{self.path}.{key[:LONGEST]}: {message}")

    def exactly(self, keys: Collection[str]) -> StateReader:
        """Return ourselves if these are all the keys."""
        for key in keys:
            self.any(key)
        return self.within(keys)

    def within(self, keys: Collection[str]) -> StateReader:
        """Return ourselves if there are no other keys than these."""
        for key in self:
            if key not in keys:
                raise self.fail(key, "is not known here")
        return self

    def any(self, key: str) -> Any:
        """Return a value of any kind."""
        if key not in self._value:
            raise self.fail(key, "is missing")
        return self._value[key]

    def part(self, key: str) -> StateReader:
        """Return a mapping within."""
        return StateReader(self.any(key), f"{self.path}.{key[:LONGEST]}")

    def parts(self, key: str, count: int) -> list[StateReader]:
        """Return a list of `count` mappings."""
        value = self.any(key)
        if not isinstance(value, (list, tuple)) or len(value) != count:
            raise self.fail(key, f"expected a list of {count}, got {_shown(value)}")
        return [StateReader(each, f"{self.path}.{key}[{index}]") for index, each in enumerate(value)]

    def flag(self, key: str) -> bool:
        """Return a truth value."""
        value = self.any(key)
        if not isinstance(value, bool):
            raise self.fail(key, f"expected true or false, got {_shown(value)}")
        return value

    def text(self, key: str) -> str:
        """Return a text."""
        value = self.any(key)
        if not isinstance(value, str):
            raise self.fail(key, f"expected a text, got {_shown(value)}")
        return value

    def integer(self, key: str, least: int = 0, most: int = MOST) -> int:
        """Return a whole number from `least` to `most`."""
        value = self.any(key)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.fail(key, f"expected a whole number from {least} to {most}, got {_shown(value)}")
        return value

    def optional_integer(self, key: str, least: int = 0) -> int | None:
        """Return a whole number, or None."""
        return None if self.any(key) is None else self.integer(key, least)

    def number(self, key: str) -> float:
        """Return a finite number."""
        value = self.any(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e300 or math.isnan(value):
            raise self.fail(key, f"expected a finite number, got {_shown(value)}")
        return float(value)

    def measured(self, key: str) -> float:
        """Return a number that was measured: it may be infinite, or NaN."""
        value = self.any(key)
        if isinstance(value, float):
            return value
        return self.number(key)

    def integers(self, key: str) -> list[int]:
        """Return a list of whole numbers of at least 0."""
        value = self.any(key)
        if not isinstance(value, (list, tuple)):
            raise self.fail(key, f"expected a list of whole numbers, got {_shown(value)}")
        inner = StateReader({str(index): each for index, each in enumerate(value)}, f"{self.path}.{key}")
        return [inner.integer(index) for index in inner]

    def tensor(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a tensor of this shape and dtype, finite where it holds floating-point numbers."""
        value = self.any(key)
        if not isinstance(value, Tensor):
            raise self.fail(key, f"expected a tensor, got {_shown(value)}")
        if tuple(value.shape) != shape or value.dtype != dtype or value.layout != torch.strided or value.is_meta:
            raise self.fail(key, f"expected {_kind(shape, dtype)}, got {_kind(tuple(value.shape), value.dtype)}")
        if dtype.is_floating_point and not bool(value.isfinite().all()):
            raise self.fail(key, "holds values that are not finite")
        return value


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {_kind(tuple(value.shape), value.dtype)}"
    try:
        text = repr(value)
    except Exception:  # a hostile object, or an integer too long to print
        text = f"a {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _kind(shape: tuple[int, ...], dtype: torch.dtype) -> str:
    sides = "×".join(map(str, shape)) or "one number"
    return f"{sides} of {str(dtype).removeprefix('torch.')}"
