"""Experts that are gone from a layer: a router still chooses among all, and a token that it sends to one gets nothing.

A dead expert adds zeros to the tokens that are sent to it, and keeps a place among those that a token goes to. Without
its row in the router another expert would be chosen in its place, and the shares of all would be others. So the router
stays as it is, and the experts that are left are told which of its numbers are theirs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ATTRIBUTE = "_kept_experts"
"""What a module of experts keeps them under."""

TABLE = "_places_of_experts"
"""What it keeps the places of all experts under, once it has run. No buffer: what moves, saves and remakes models must
not know of it, and those that are made on the meta device would get one without numbers."""

INDICES = ("top_k_index", "router_indices")
"""What the numbers of a token's experts are called in a forward: int64 [tokens, chosen]."""


@dataclass(frozen=True)
class Kept:
    """Which experts are left."""

    of: int
    """How many the router knows."""

    numbers: tuple[int, ...]
    """Those that are left, by the router's numbers, ascending."""

    def places(self) -> list[int]:
        """Return the place of every expert among those that are left, −1 for one that is gone.

        One more is gone: the number that stands for no expert in layers that are spread over several devices.
        """
        places = {number: place for place, number in enumerate(self.numbers)}
        return [places.get(number, -1) for number in range(self.of + 1)]


def kept(module: nn.Module) -> Kept | None:
    """Return which experts of a module are left, or None where none has gone."""
    found: Kept | None = vars(module).get(ATTRIBUTE)
    return found


def arguments(module: nn.Module) -> tuple[str, str, str] | None:
    """Return what a forward calls tokens, numbers of their experts, and shares; None where it takes no numbers."""
    kind: Any = type(module) if kept(module) is None else type(module).__base__
    names = [name for name in inspect.signature(kind.forward).parameters if name != "self"]
    return (names[0], names[1], names[2]) if len(names) == 3 and names[1] in INDICES else None


def leave(module: nn.Module, of: int, numbers: Iterable[int]) -> None:
    """Have experts know which of a router's numbers are theirs, in place; their weights are not touched.

    Raises ValueError for numbers that cannot be, and for a module that is not told numbers of experts.
    """
    mine = tuple(numbers)
    before = kept(module)
    if before is not None:
        if any(number not in range(len(before.numbers)) for number in mine):
            raise ValueError("not all of these experts are there")
        of, mine = before.of, tuple(before.numbers[number] for number in mine)
    names = arguments(module)
    if names is None:
        raise ValueError("it is not told the numbers of the experts")
    if not mine or sorted(set(mine)) != list(mine) or mine[0] < 0 or mine[-1] >= of:
        raise ValueError("these are no experts of it")
    if before is None:
        if all(not parameter.dim() or len(parameter) % of for parameter in module.parameters()):
            raise ValueError(f"it has no {of} experts")
        module.__class__ = _fewer(type(module), names)
    setattr(module, ATTRIBUTE, Kept(of, mine))
    vars(module).pop(TABLE, None)


def _places(module: nn.Module, numbers: Tensor) -> Tensor:
    """Return the place of each number, of the same shape; int64, −1 for an expert that is gone."""
    if torch.compiler.is_compiling():  # what is traced holds the numbers themselves, and changes no module
        return numbers.new_tensor(getattr(module, ATTRIBUTE).places())[numbers]
    table: Tensor | None = vars(module).get(TABLE)
    if table is None or table.device != numbers.device:
        with torch.inference_mode(False):
            table = torch.tensor(getattr(module, ATTRIBUTE).places(), device=numbers.device)
        if type(table) is Tensor:  # a pretended one is good for this forward only
            setattr(module, TABLE, table)
    return table[numbers]


def _fewer(kind: type[Any], names: tuple[str, str, str]) -> type[Any]:
    """Return a class like `kind` that leaves out what a router sends to experts that are gone."""

    def forward(self: Any, *given: Any, **named: Any) -> Any:
        tokens, numbers, shares = (*given, *(named[name] for name in names[len(given) :]))
        places = _places(self, numbers)
        return kind.forward(self, tokens, places.clamp(min=0), shares.masked_fill(places < 0, 0))

    def reduce(self: Any, _: int) -> Any:
        return _made, (kind, names), self.__dict__

    more = {
        "forward": forward,
        "__reduce_ex__": reduce,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
    }
    return type(kind.__name__, (kind,), more)


def _made(kind: type[Any], names: tuple[str, str, str]) -> Any:
    """Return an empty instance, for copies and pickles."""
    return object.__new__(_fewer(kind, names))
