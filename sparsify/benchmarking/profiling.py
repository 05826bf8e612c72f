"""A forward that is watched: what each function of torch that a model calls takes, and in which module.

Functions are seen as they are called from Python (a function mode of torch), modules by hooks, on one clock; so the
parts add up to the whole, and what lies between them is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sparsify.benchmarking.engines.base import Forward
from sparsify.benchmarking.kinds import BETWEEN, SPARSE, is_engines, kind_of
from sparsify.benchmarking.profile import Cell, Profile
from sparsify.engine import attention, missing, peak
from sparsify.engine.packed import about

FORWARDS = 5
"""That are watched, after one that is not counted; the one with the median time is shown."""


def profile(forward: Forward) -> Profile:
    """Run a forward several times and return where its time goes."""
    fastest = None if missing() else peak()
    watches = []
    for _ in range(1 + FORWARDS):
        watch = _Watch()
        with _told(forward.model, watch), watch:
            begin = perf_counter()
            forward()
            watch.seconds = perf_counter() - begin
        watches.append(watch)
    chosen = sorted(watches[1:], key=lambda each: each.seconds)[FORWARDS // 2]
    if fastest is not None:
        fastest = max(fastest, peak())
    return Profile(seconds=chosen.seconds, forwards=FORWARDS, peak=fastest, cells=chosen.cells())


class _Watch(TorchFunctionMode):
    """Notes when a module begins and ends, and what each function takes."""

    def __init__(self) -> None:
        super().__init__()
        self.path = [""]
        self.seconds = 0.0
        self.spent: dict[tuple[str, str], list[float]] = {}
        self.engines: list[tuple[tuple[str, str], Callable[[], int]]] = []
        """(cell, what counts its operations), counted when nothing is timed any more."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        begin = perf_counter()
        found = func(*args, **named)
        taken = perf_counter() - begin
        kind = kind_of(func, (*args, *named.values()))
        cell = self.path[-1], kind
        self.spent.setdefault(cell, []).append(taken)
        if kind == SPARSE:
            self.engines.append((cell, partial(_of_product, args[1], found.numel())))
        elif is_engines(func, "attention"):
            q, k, _, _, mask, causal, _ = args
            self.engines.append((cell, partial(attention.operations, q, k, mask, causal)))
        return found

    def cells(self) -> list[Cell]:
        """Return what was noted, and what is left of the whole."""
        operations: dict[tuple[str, str], int] = {}
        for cell, count in self.engines:
            operations[cell] = operations.get(cell, 0) + count()
        found = [
            Cell(module=cell[0], kind=cell[1], calls=len(times), seconds=sum(times), operations=operations.get(cell, 0))
            for cell, times in self.spent.items()
        ]
        left = self.seconds - sum(cell.seconds for cell in found)
        return [*found, Cell(module="", kind=BETWEEN, calls=0, seconds=max(left, 0.0), operations=0)]


def _of_product(packed: Tensor, outputs: int) -> int:
    """Return the operations of a product that made so many numbers."""
    weight = about(packed)
    return 2 * weight.values * outputs // max(weight.rows, 1)


@contextmanager
def _told(model: nn.Module, watch: _Watch) -> Iterator[None]:
    """Let a watch know which module is at work."""

    def entering(name: str) -> Any:
        return lambda *_: watch.path.append(name)

    def leaving(*_: Any) -> None:
        watch.path.pop()

    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(entering(name), prepend=True))
            handles.append(module.register_forward_hook(leaving, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
