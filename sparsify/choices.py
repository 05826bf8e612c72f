"""What choices of kernels have in common, whichever kernels: reading, checking against a model, a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from sparsify.errors import KernelError, did_you_mean
from sparsify.escaping import one_line, quoted


class Layer(Protocol):
    """A linear layer of a model."""

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        ...


class Choice(Protocol):
    """What was chosen for a layer."""

    @property
    def layer(self) -> str:
        """Its name."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        ...

    @property
    def sparse(self) -> bool:
        """Whether its zeros are skipped."""
        ...


def shape_of(data: Mapping[str, Any]) -> tuple[int, int]:
    """Return the shape in the plain data of a choice. Raises KernelError for anything else."""
    shape = data.get("shape")
    if not isinstance(shape, (list, tuple)) or len(shape) != 2 or any(type(size) is not int for size in shape):
        raise KernelError(f"choices: {one_line(data['layer'])} has no shape of two whole numbers, but {quoted(shape)}")
    return shape[0], shape[1]


def check(choices: Iterable[Choice], layers: Mapping[str, Layer], reasons: Mapping[str, str]) -> None:
    """Raise KernelError where choices are of other layers, or `reasons` has one against what they want."""
    for choice in choices:
        if choice.layer not in layers:
            raise KernelError(f"choices name {choice.layer}, which the model lacks{did_you_mean(choice.layer, layers)}")
        if choice.shape != layers[choice.layer].shape:
            one, two = (" × ".join(map(str, each)) for each in (choice.shape, layers[choice.layer].shape))
            raise KernelError(f"choices have {choice.layer} as {one}; here it is {two}")
        if choice.sparse and reasons[choice.layer]:
            raise KernelError(f"choices have {choice.layer} sparse, which cannot be: {reasons[choice.layer]}")


def verdict(faster: float, margin: float) -> str:
    """Return why a layer stays dense after a trial; empty where it was faster by the margin."""
    if faster >= 1 + margin:
        return ""
    return f"{'slower here' if faster < 1 else f'not faster by {margin:.0%} here'}: {faster:.2f}×"


def sparse(choices: Iterable[Choice]) -> tuple[str, ...]:
    """Return the names of the layers whose zeros are skipped."""
    return tuple(choice.layer for choice in choices if choice.sparse)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], number: int, where: str) -> str:
    """Return a table for a terminal, a line a layer, and how many of them are sparse."""
    lines = [columns, *rows]
    widths = [max(len(row[place]) for row in lines) for place in range(len(columns))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines]
    return "\n".join([*text, f"{number} of {len(rows)} layers are sparse ({where})"])
