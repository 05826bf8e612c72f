"""Follows channels through one forward: sees every operation that torch computes, and asks a rule about it.

No rule knows a module. Labels go the way of the values: a view, a chunk or a concatenation of a tensor is one of its
labels, so that index maps come by themselves. What has no rule keeps its channels alive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from sparsify.errors import PlanError
from sparsify.structure.channels.labels import Origin, Seen, distinct
from sparsify.structure.channels.sets import Classes


class Call:
    """One operation: its arguments by the names of its schema, and what came out."""

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        self.func, self.output = func, output
        schema = func._schema
        self.name = schema.name.removeprefix("aten::")
        self.args, self.kwargs = args, dict(kwargs)
        names = [argument.name for argument in schema.arguments]
        self.named: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
        self.written = [
            self.named[argument.name]
            for argument in schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write and argument.name in self.named
        ]

    def tensors(self) -> list[Tensor]:
        """Return every tensor among the arguments."""
        return list(tensors_in(self.named))

    def results(self) -> list[Tensor]:
        """Return every tensor that came out."""
        return list(tensors_in(self.output))


Rule = Callable[["Follower", Call], bool]
"""Notes what an operation does to labels; returns whether it knows."""


class Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Labels of the tensors of a forward. Raises PlanError where it takes more `seconds` of computing than given.

    A machine that is busy with other things makes no difference: plans would depend on it.
    """

    def __init__(self, model: nn.Module, rules: Iterable[Rule], seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.classes = Classes()
        self.rules = tuple(rules)
        self.used: set[str] = set()
        """Parameters that were seen."""

        self._seen: Any = WeakTensorKeyDictionary()
        self._origins: Any = WeakTensorKeyDictionary()
        self._path: list[str] = []
        self._until = time.process_time() + seconds
        self._seconds = seconds
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._origins[tensor] = Origin(name, tuple(tensor.shape), torch.arange(tensor.numel()).view(tensor.shape))
        self._handles = [handle for name, module in model.named_modules() for handle in self._named(name, module)]

    def _named(self, name: str, module: nn.Module) -> Iterator[Any]:
        """Know in which module an operation happens."""

        def leave(*_: Any) -> None:
            self._path.pop()

        yield module.register_forward_pre_hook(lambda *_: self._path.append(name))
        yield module.register_forward_hook(leave, always_call=True)

    def close(self) -> None:
        """Take the hooks out of the model."""
        for handle in self._handles:
            handle.remove()

    @property
    def where(self) -> str:
        """The module that is at work."""
        return next((name for name in reversed(self._path) if name), "the model")

    # ------------------------------------------------------------------ what rules ask for

    def seen(self, value: Any) -> Seen | None:
        """Return what is known of a tensor; None for what has no channels."""
        found: Seen | None = self._seen.get(value) if isinstance(value, Tensor) else None
        return found

    def origin(self, value: Any) -> Origin | None:
        """Return where a tensor comes from, if it is a parameter, a buffer or a view of one."""
        found: Origin | None = self._origins.get(value) if isinstance(value, Tensor) else None
        if found is not None:
            self.used.add(found.name)
        return found

    def note(self, tensor: Tensor, found: Seen | Origin) -> None:
        """Know something of a tensor from now on."""
        if isinstance(found, Origin):
            self._origins[tensor] = found
        elif bool((found.labels != 0).any()):
            self._seen[tensor] = found
        else:
            self._seen.pop(tensor, None)

    def keep(self, values: Iterable[Any], why: str) -> None:
        """Let the channels of tensors live, and nothing die in parameters among them."""
        for value in values:
            if (seen := self.seen(value)) is not None:
                self.classes.keep(distinct(seen.labels), f"{self.where}: {why}")
            elif (origin := self.origin(value)) is not None:
                self.classes.strange.setdefault(origin.name, f"is read in a way that is not followed ({why})")

    # ------------------------------------------------------------------ what torch calls

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch should load its compiler only to keep it away; nothing is compiled here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute as always, and look."""
        output = func(*args, **(kwargs or {}))
        if time.process_time() > self._until:
            raise PlanError(f"following the channels takes more than {self._seconds:g} s of computing, in {self.where}")
        call = Call(func, args, kwargs or {}, output)
        if any(self._seen.get(each) is not None or self._origins.get(each) is not None for each in call.tensors()):
            self._ask(call)
        return output

    def _ask(self, call: Call) -> None:
        if any(rule(self, call) for rule in self.rules):
            return
        self.keep(call.tensors(), f"{call.name} is not followed")
        for tensor in call.written:
            self.overwritten(tensor, f"{call.name} writes into it")

    def overwritten(self, tensor: Tensor, why: str, *, alone: bool = True) -> None:
        """Something was written that is not followed: the channels of all tensors that share the memory live.

        Unless `alone`, only where there are others.
        """
        storage = tensor.untyped_storage()._cdata
        found = [other for other in self._seen if other.untyped_storage()._cdata == storage]
        if alone or len(found) > 1:
            self.keep(found, why)
            for other in found:
                self._seen.pop(other, None)

    def finish(self, outputs: Any) -> None:
        """What reaches the outputs lives."""
        for tensor in tensors_in(outputs):
            if (seen := self.seen(tensor)) is not None:
                self.classes.keep(distinct(seen.labels), "its channels are the model's output")


def tensors_in(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, mappings and plain objects."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors_in(each, depth + 1)
    elif isinstance(value, (list, tuple, set)):
        for each in value:
            yield from tensors_in(each, depth + 1)
    elif depth < 8 and hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module)):
        yield from tensors_in(vars(value), depth + 1)
