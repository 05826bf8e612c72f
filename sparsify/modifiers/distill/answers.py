"""What a teacher has said, by sample: tables that only grow, in memory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify.modifiers.distill.keys import BYTES, bytes_of
from sparsify.state_reader import StateReader

FLOAT, INT = torch.float32, torch.int32
KINDS = re.compile("(rows|positions|spans|sampled)-([1-9][0-9]{0,8})")


@dataclass(frozen=True)
class Layout:
    """What is kept of a sample: one value for each field and position (for `rows`: one for the sample)."""

    kind: str
    """`rows`: logits of a classifier; `positions`: those of one of tokens; `spans`: start and end logits; `sampled`."""

    width: int
    """Classes; for `sampled` tokens a position."""

    @property
    def name(self) -> str:
        """The name of its table in files."""
        return f"{self.kind}-{self.width}"

    @classmethod
    def named(cls, name: str) -> Layout | None:
        """Return the layout of a name, or None."""
        match = KINDS.fullmatch(name)
        return cls(match[1], int(match[2])) if match else None

    @property
    def fields(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape of a value, and dtype, by field."""
        if self.kind == "spans":
            return {"start_logits": ((), FLOAT), "end_logits": ((), FLOAT)}
        if self.kind == "sampled":
            return {"ids": ((self.width,), INT), "surprise": ((), FLOAT)}
        return {"logits": ((self.width,), FLOAT)}


class Table:
    """The values of all samples of one layout, in the order in which they came."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._places: dict[bytes, tuple[int, int]] = {}
        """By key: where the values begin, and how many there are."""

        self._size = 0
        self._values = {name: torch.empty(0, *shape, dtype=dtype) for name, (shape, dtype) in layout.fields.items()}

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, keys: Sequence[bytes], counts: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Take up samples: `counts[i]` values of each field belong to `keys[i]`; those that are known stay as they are.

        Broken off at any point, the table is as before.
        """
        begin, places = self._size, {}
        for key, count in zip(keys, counts, strict=True):
            places[key] = (begin, count)
            begin += count
        for name, tensor in self._values.items():
            if len(tensor) < begin:
                grown = tensor.new_empty(max(begin, 2 * len(tensor)), *tensor.shape[1:])
                grown[: self._size] = tensor[: self._size]
                self._values[name] = grown
            self._values[name][self._size : begin] = values[name].cpu()
        self._size = begin
        self._places.update({key: place for key, place in places.items() if key not in self._places})

    def take(self, keys: Sequence[bytes]) -> dict[str, Tensor]:
        """Return the values of samples by field, one sample after the other."""
        spans = torch.tensor([self._places[key] for key in keys]).view(-1, 2)
        index = _ranges(spans[:, 0], spans[:, 1])
        return {name: tensor[index] for name, tensor in self._values.items()}

    def counts(self, keys: Sequence[bytes]) -> list[int]:
        """Return how many values each sample has."""
        return [self._places[key][1] for key in keys]

    def state(self) -> dict[str, Tensor]:
        """Return everything as tensors: keys `[samples, 16]`, begins and counts `[samples]`, and the fields."""
        keys, spans = b"".join(self._places), list(self._places.values())
        hashed = torch.frombuffer(bytearray(keys), dtype=torch.uint8) if keys else torch.empty(0, dtype=torch.uint8)
        return {
            "keys": hashed.view(-1, BYTES),
            "begins": torch.tensor([begin for begin, _ in spans], dtype=torch.int64),
            "counts": torch.tensor([count for _, count in spans], dtype=INT),
            **{name: tensor[: self._size].clone() for name, tensor in self._values.items()},
        }

    def take_up(self, state: Mapping[str, Tensor]) -> None:
        """Add what `state` returned, and `check` let pass."""
        data = bytes_of(state["keys"])
        keys = [data[place : place + BYTES] for place in range(0, len(data), BYTES)]
        new = [row for row, key in enumerate(keys) if key not in self._places]
        counts = state["counts"][new].long()
        index = _ranges(state["begins"][new], counts)
        values = {name: state[name][index] for name in self.layout.fields}
        self.add([keys[row] for row in new], counts.tolist(), values)


def _ranges(begins: Tensor, counts: Tensor) -> Tensor:
    """Return begin, begin + 1, …, one range of `counts[i]` numbers after the other."""
    ends = counts.cumsum(0)
    return torch.arange(int(counts.sum())) + (begins - ends + counts).repeat_interleave(counts)


def check(saved: StateReader, layout: Layout) -> None:
    """Raise StateError for a table that `take_up` cannot take up."""
    saved.exactly(("keys", "begins", "counts", *layout.fields))
    samples, values = (_rows(saved, key) for key in ("keys", next(iter(layout.fields))))
    saved.tensor("keys", (samples, BYTES), torch.uint8)
    begins = saved.tensor("begins", (samples,), torch.int64)
    counts = saved.tensor("counts", (samples,), INT).long()
    if samples and (int(begins.min()) < 0 or int(counts.min()) < 0 or bool((begins > values - counts).any())):
        raise saved.fail("begins", f"values beyond the {values} that there are")
    if layout.kind == "rows" and bool((counts != 1).any()):
        raise saved.fail("counts", "a sample has one row of logits")
    if int(counts.sum()) > values:
        raise saved.fail("counts", "two samples share values")
    for name, (shape, dtype) in layout.fields.items():
        ruled_out = saved.any(name)
        if isinstance(ruled_out, Tensor) and ruled_out.dtype == dtype == FLOAT and name != "surprise":
            finite = {name: ruled_out.masked_fill(ruled_out == -torch.inf, 0.0)}  # a class that is ruled out
            StateReader(finite, saved.path).tensor(name, (values, *shape), dtype)
        else:
            tensor = saved.tensor(name, (values, *shape), dtype)
            if values and bool((tensor < 0).any()):
                raise saved.fail(name, "holds values below 0")


def _rows(saved: StateReader, key: str) -> int:
    value = saved.any(key)
    return len(value) if isinstance(value, Tensor) and value.dim() else 0
