"""A model run without touching it: what its parts are given, and whether another one computes the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.anatomy.outputs import tensors
from sparsify.anatomy.samples import Call, samples
from sparsify.errors import CompactionError, first_line, named_line
from sparsify.layers.outline import bare, remade
from sparsify.structure.channels.inputs import given as read_inputs

EXACT = 300_000_000
"""The most weights with which a model is run in float64; larger ones in float32."""

FAR = 1000
"""How many times larger than the median the largest value of an output may be and count."""

SAME = 1e-6
"""By how much what a layer hands on may differ from what it is given, relative to its largest value."""

HOW = "give some: `example_inputs=` (a tensor, a tuple of arguments, or a mapping of them by name)"


class Runner:
    """Runs copies of a model, and of smaller ones, on the same inputs, in evaluation mode on the CPU."""

    def __init__(self, model: nn.Module, example_inputs: Any = None) -> None:
        count = sum(parameter.numel() for parameter in model.parameters())
        for self.dtype in (torch.float64, torch.float32) if count <= EXACT else (torch.float32,):
            try:
                self._model = self._copy(model)
                self.call, self._outputs = self._first(example_inputs)
            except CompactionError:  # some operations are not there in float64
                if self.dtype == torch.float32:
                    raise
            else:
                break

    def inputs(self, names: list[str]) -> dict[str, Tensor]:
        """Return what modules of the model are given, as [places, features]; those that are not called are left out."""
        found: dict[str, list[Tensor]] = {}

        def look(name: str) -> Any:
            def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
                if args and isinstance(args[0], Tensor):
                    found.setdefault(name, []).append(args[0].detach().flatten(0, -2))

            return hook

        handles = [
            self._model.get_submodule(name).register_forward_pre_hook(look(name)) for name in dict.fromkeys(names)
        ]
        try:
            self._run(self._model, self.call)
        finally:
            for handle in handles:
                handle.remove()
        return {name: torch.cat(values) for name, values in found.items()}

    def hands_on(self, name: str) -> bool:
        """Whether a layer of the model returns the hidden states that it is given."""
        seen: list[bool] = []

        def look(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            given = args[0] if args else named.get("hidden_states")
            first = next(tensors(output), None)
            if not isinstance(given, Tensor) or first is None or first.shape != given.shape:
                seen.append(False)
            else:
                seen.append(_apart(first, given.detach()) <= SAME)

        handle = self._model.get_submodule(name).register_forward_hook(look, with_kwargs=True)
        try:
            self._run(self._model, self.call)
        finally:
            handle.remove()
        return bool(seen) and all(seen)

    def difference(self, other: nn.Module) -> float:
        """Return by how much another model's outputs differ, relative to their largest value; the worst of them.

        Raises CompactionError where it cannot be run, or gives other outputs.
        """
        try:
            found = list(tensors(self._run(self._copy(other), self.call)))
        except Exception as error:  # whatever a model does whose parts do not fit
            raise CompactionError(f"it fails: {named_line(error)}") from None
        if [each.shape for each in found] != [each.shape for each in self._outputs]:
            raise CompactionError("its outputs have other shapes")
        apart = [_apart(one, two) for one, two in zip(found, self._outputs, strict=True)]
        return max(apart, key=lambda each: math.inf if math.isnan(each) else each, default=0.0)

    def _first(self, example_inputs: Any) -> tuple[Call, list[Tensor]]:
        """Return the first call that the model takes, and its outputs. Raises CompactionError."""
        reason = "nothing tells what it takes"
        given = None if example_inputs is None else read_inputs(example_inputs)
        calls = samples(self._model) if given is None else [(given.args, dict(given.named or {}))]
        for args, named in calls:
            call = (_as(args, self.dtype), _as(named, self.dtype))
            try:
                outputs = list(tensors(self._run(self._model, call)))
            except Exception as error:  # whatever a model does with data that are not its own
                reason = first_line(error)
                continue
            if outputs and all(bool(each.isfinite().all()) for each in outputs):
                return call, outputs
            reason = "its outputs are not finite numbers" if outputs else "it returns no tensor of numbers"
        kind = type(self._model).__name__
        if example_inputs is not None:
            raise CompactionError(f"{kind} cannot be run on example_inputs: {reason}")
        raise CompactionError(f"{kind} must be run once, and inputs could not be guessed ({reason}); {HOW}")

    def _run(self, model: nn.Module, call: Call) -> Any:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
            torch.manual_seed(0)
            return model(*call[0], **call[1])

    def _copy(self, model: nn.Module) -> nn.Module:
        def change(_: str, tensor: Tensor) -> Tensor:
            return tensor.to("cpu", self.dtype) if tensor.is_floating_point() else tensor.cpu()

        return bare(remade(model, change))


def _as(value: Any, dtype: torch.dtype) -> Any:
    """Return arguments on the CPU, with numbers in another precision."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping) and type(value) in (dict,):
        return {name: _as(each, dtype) for name, each in value.items()}
    return type(value)(_as(each, dtype) for each in value) if type(value) in (tuple, list) else value


def _apart(one: Tensor, two: Tensor) -> float:
    if not one.numel():
        return 0.0
    return float((one - two).abs().max()) / _scale(two.abs())


def _scale(sizes: Tensor) -> float:
    """Return the largest size; where it is far from the others (a mask of -1e9 among scores) they say what is large."""
    there = sizes[sizes > 0]
    return min(float(there.max()), FAR * float(there.median())) if there.numel() else 1.0
