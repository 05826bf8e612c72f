"""Widths that a configuration cannot say: kept beside it, and put into the model that is made of it.

A folder with such widths is an ordinary one (safetensors and config.json) and a file beside them with the shapes of
tensors and the numbers that modules keep. Nothing in it is run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsify import absent_experts
from sparsify.absent_experts import Kept
from sparsify.errors import StateError, did_you_mean
from sparsify.files import read_json
from sparsify.state_reader import StateReader

FILE = "sparsify_widths.json"
FORMAT = 2
MARK = "_sparsify_widths"
"""The attribute of a model that was loaded with widths of its own."""

Number = int | float | tuple[int, ...]


@dataclass(frozen=True)
class Widths:
    """What a model has that the one of its configuration has not."""

    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The shape of each parameter or buffer that has another."""

    attributes: Mapping[str, Mapping[str, Number]] = field(default_factory=dict)
    """Numbers (or tuples of whole ones) by module and attribute."""

    experts: Mapping[str, Kept] = field(default_factory=dict)
    """Which experts are left, by the module that is told their numbers, where some are gone."""

    def __bool__(self) -> bool:
        return bool(self.tensors or self.attributes or self.experts)

    @classmethod
    def between(cls, found: nn.Module, wanted: nn.Module) -> Widths | None:
        """Return what must be changed in `wanted` so that it has the widths of `found`; None if that is not all."""
        one, other = (dict(each.named_modules(remove_duplicate=False)) for each in (found, wanted))
        if set(one) != set(other) or any(_kind(one[name]) != _kind(other[name]) for name in one):
            return None
        tensors: dict[str, tuple[int, ...]] = {}
        attributes: dict[str, dict[str, Number]] = {}
        if any(absent_experts.kept(module) for module in other.values()):
            return None
        for name, mine in one.items():
            theirs = other[name]
            shapes, wanted_shapes = dict(_shapes(name, mine)), dict(_shapes(name, theirs))
            if set(shapes) != set(wanted_shapes):
                return None
            tensors |= {key: shape for key, shape in shapes.items() if shape != wanted_shapes[key]}
            numbers: dict[str, Any] = dict(vars(mine))
            for key, value in numbers.items():
                old: Any = vars(theirs).get(key)
                if not key.startswith("_") and _is_number(value) and type(value) is type(old) and value != old:
                    attributes.setdefault(name, {})[key] = value
        return cls(tensors, attributes, _experts(one))

    @classmethod
    def of(cls, model: nn.Module) -> Widths:
        """Return all widths of a model, for one that no configuration describes."""
        tensors: dict[str, tuple[int, ...]] = {}
        attributes: dict[str, dict[str, Number]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            tensors |= dict(_shapes(name, module))
            numbers = {
                key: value for key, value in vars(module).items() if not key.startswith("_") and _is_number(value)
            }
            if numbers:
                attributes[name] = numbers
        return cls(tensors, attributes, _experts(dict(model.named_modules(remove_duplicate=False))))

    def without(self, other: Widths) -> Widths:
        """Return these, without the attributes that others have too, whatever their values."""
        kept = {
            path: {name: value for name, value in numbers.items() if name not in other.attributes.get(path, {})}
            for path, numbers in self.attributes.items()
        }
        return Widths(self.tensors, {path: numbers for path, numbers in kept.items() if numbers}, self.experts)

    def put(self, model: nn.Module) -> None:
        """Give a model these widths, in place; its weights are new and hold anything. Raises StateError."""
        modules = dict(model.named_modules(remove_duplicate=False))
        prefix = f"{getattr(model, 'base_model_prefix', '')}."
        for path, numbers in self.attributes.items():
            module = _known(modules, path, prefix)
            for name, value in numbers.items():
                if not _is_number(vars(module).get(name)) or type(vars(module)[name]) is not type(value):
                    raise StateError(f"{FILE}: {path}.{name} is no number that the model keeps")
                setattr(module, name, value)
        for path, left in self.experts.items():
            try:
                absent_experts.leave(_known(modules, path, prefix), left.of, left.numbers)
            except ValueError as error:
                raise StateError(f"{FILE}: {path}: {error}") from None
        done: dict[int, Any] = {}
        for key, shape in self.tensors.items():
            path, _, name = key.rpartition(".")
            module = _known(modules, path, prefix)
            store = next((s for s in (module._parameters, module._buffers) if s.get(name) is not None), None)
            if store is None:
                raise StateError(f"{FILE}: the model has no tensor {key!r}")
            old: Any = store[name]
            if len(shape) != old.dim() or any(new > size for new, size in zip(shape, old.shape, strict=True)):
                raise StateError(f"{FILE}: {key} is {list(old.shape)}, and cannot become {list(shape)}")
            if id(old) not in done:
                new = torch.empty(shape, dtype=old.dtype, device=old.device)
                done[id(old)] = old, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
            store[name] = done[id(old)][1]

    def to_json(self) -> str:
        """Return it as the text of a file."""
        data = {
            "format": FORMAT,
            "tensors": {name: list(shape) for name, shape in self.tensors.items()},
            "attributes": {
                path: {name: list(value) if isinstance(value, tuple) else value for name, value in numbers.items()}
                for path, numbers in self.attributes.items()
            },
            "experts": {path: {"of": left.of, "kept": list(left.numbers)} for path, left in self.experts.items()},
        }
        return json.dumps(data, indent=1, sort_keys=True) + "\n"


def read(folder: str | Path) -> Widths | None:
    """Return the widths beside a configuration, or None where there are none. Raises StateError for a damaged file."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    state = StateReader(read_json(path), str(path)).exactly(("format", "tensors", "attributes", "experts"))
    if state.any("format") != FORMAT:
        raise state.fail("format", f"this version reads {FORMAT}, and the file has {state.any('format')!r}")
    tensors = {name: _sizes(state.part("tensors"), name) for name in state.part("tensors")}
    attributes = {}
    for name in state.part("attributes"):
        part = state.part("attributes").part(name)
        attributes[name] = {key: _number(part, key) for key in part}
    experts = {}
    for name in state.part("experts"):
        part = state.part("experts").part(name)
        experts[name] = Kept(part.integer("of"), _sizes(part, "kept"))
    return Widths(tensors, attributes, experts)


def _number(state: StateReader, key: str) -> Number:
    value = state.any(key)
    if isinstance(value, float):
        return state.number(key)
    return state.integer(key) if isinstance(value, int) else _sizes(state, key)


def resized(kind: type[Any], widths: Widths | None) -> type[Any]:
    """Return a class like `kind` whose models have these widths; itself without any."""
    if not widths:
        return kind

    def make(self: Any, config: Any, *arguments: Any, **more: Any) -> None:
        kind.__init__(self, config, *arguments, **more)
        widths.put(self)
        setattr(self, MARK, True)

    return type(kind.__name__, (kind,), {"__init__": make, "__module__": kind.__module__})


def of_globals(config: Any) -> Any:
    """Return a configuration without what it says of single layers, which `Widths` say: a class is made of the rest."""
    if getattr(config, "is_heterogeneous", False):
        config.per_layer_config = None
    else:
        vars(config).pop("per_layer_config", None)
    return config


def _sizes(state: StateReader, key: str) -> tuple[int, ...]:
    value = state.any(key)
    if not isinstance(value, list) or not all(type(each) is int and each >= 0 for each in value):
        raise state.fail(key, "expected a list of sizes")
    return tuple(value)


def _known(modules: Mapping[str, nn.Module], path: str, prefix: str) -> nn.Module:
    """Return a module by its name in the model that was saved, which may have had a head, or none."""
    for name in (path, path.removeprefix(prefix), prefix + path):
        if name in modules:
            return modules[name]
    raise StateError(f"{FILE}: the model has no module {path!r}{did_you_mean(path, modules)}")


def _experts(modules: Mapping[str, nn.Module]) -> dict[str, Kept]:
    found = {name: absent_experts.kept(module) for name, module in modules.items()}
    return {name: left for name, left in found.items() if left is not None}


def _kind(module: nn.Module) -> tuple[str, str]:
    return type(module).__module__, type(module).__qualname__


def _shapes(path: str, module: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    for store in (module._parameters, module._buffers):
        for name, value in store.items():
            if value is not None:
                yield f"{path}.{name}" if path else name, tuple(value.shape)


def _is_number(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(type(each) is int and each >= 0 for each in value)
    return (type(value) is int and value >= 0) or (type(value) is float and math.isfinite(value))
