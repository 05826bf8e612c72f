"""A random twin of a model: the same modules with other weights, to be run without touching the model."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.anatomy.samples import Call, of_modules, samples
from sparsify.layers.outline import outline

LARGEST = 1 << 28
"""Bytes: of the pool that all weights of a twin share, and of the weights of a block that has its own."""


class UnverifiedError(Exception):
    """A block cannot be tried; says why."""


class _SeenError(Exception):
    """What was waited for has been seen."""


class Twin:
    """A model's modules with random weights, float32 on the CPU; the model, its buffers and hooks stay as they are.

    All parameters are views of one pool of random numbers, so that a twin takes the memory of the largest.
    """

    def __init__(self, model: nn.Module) -> None:
        largest = max((parameter.numel() for parameter in model.parameters()), default=0)
        if 4 * largest > LARGEST:
            raise UnverifiedError(f"its largest matrix has {largest:,} weights, too many to try")
        self.model = outline(model)
        self.generator = torch.Generator().manual_seed(0)
        pool = torch.randn(largest, generator=self.generator) * 0.1
        for module in self.model.modules():
            module.training = False
            for name, value in vars(module).items():
                if isinstance(value, OrderedDict) and name.endswith(("hooks", "with_kwargs", "always_called")):
                    vars(module)[name] = OrderedDict()
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    view = pool[: parameter.numel()].view(parameter.shape)
                    module._parameters[name] = nn.Parameter(view, requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = _like(buffer)

    def own_weights(self, block: nn.Module) -> None:
        """Give a block random weights of its own, as large as those of a trained model."""
        if 4 * sum(parameter.numel() for parameter in block.parameters()) > LARGEST:
            raise UnverifiedError("it has too many weights to try")
        for module in block.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    value = torch.randn(parameter.shape, generator=self.generator)
                    if parameter.dim() > 1:
                        value /= math.sqrt(math.prod(parameter.shape[1:]))
                    elif name == "weight":
                        value = 1 + value / 4
                    module._parameters[name] = nn.Parameter(value, requires_grad=False)

    def calls(self, name: str) -> Iterator[Call]:
        """Yield arguments with which a block can be called: as hidden states alone, then as the model calls it.

        Raises UnverifiedError where neither is found out.
        """
        block = self.model.get_submodule(name)
        needed = [
            parameter.name
            for parameter in inspect.signature(block.forward).parameters.values()
            if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        for args, named in of_modules(block):
            yield args, named
            if len(needed) > 1:
                yield args, dict.fromkeys(needed[1:])
        yield from self._caught(name, block)

    def _caught(self, name: str, block: nn.Module) -> Iterator[Call]:
        """Yield the arguments with which parts of the model call a block."""
        reasons: list[str] = []
        count = 0
        for root in self._roots(name):
            for args, kwargs in samples(root):
                try:
                    call = self._catch(block, root, args, kwargs)
                except Exception as error:  # whatever a model that we do not know says
                    reasons.append(f"{type(error).__name__}: {(str(error).strip() or ' ').splitlines()[0]}")
                    continue
                count += 1
                yield call
        if not count:
            raise UnverifiedError(f"it could not be run ({reasons[0] if reasons else 'nothing calls it'})")

    def _catch(self, block: nn.Module, root: nn.Module, args: Any, kwargs: Any) -> Call:
        seen: list[Call] = []

        def look(_: nn.Module, given: Any, named: Any) -> None:
            seen.append((_fresh(given, self.generator), _fresh(named, self.generator)))
            raise _SeenError

        handle = block.register_forward_pre_hook(look, with_kwargs=True)
        try:
            root(*args, **kwargs)
        except _SeenError:
            return seen[0]
        finally:
            handle.remove()
        raise UnverifiedError("the model does not call it")

    def _roots(self, name: str) -> Iterator[nn.Module]:
        """Yield the model, and what in it has a configuration of its own around a block, from the outside in."""
        yield self.model
        parts = name.split(".")
        for depth in range(1, len(parts)):
            module = self.model.get_submodule(".".join(parts[:depth]))
            if hasattr(module, "config"):
                yield module


def _like(buffer: Tensor) -> Tensor:
    """Return a buffer of the same form: zeros where it counts, True where it says, small numbers where it measures."""
    if buffer.dtype == torch.bool:
        return torch.ones(buffer.shape, dtype=torch.bool)
    if buffer.is_floating_point():
        return torch.linspace(0.1, 0.9, max(buffer.numel(), 1))[: buffer.numel()].view(buffer.shape)
    return torch.zeros(buffer.shape, dtype=buffer.dtype)


def _fresh(value: Any, generator: torch.Generator) -> Any:
    """Return arguments with random numbers for hidden states; masks and whole numbers as they were. No cache."""
    if isinstance(value, Tensor):
        states = value.is_floating_point() and value.dim() >= 2 and value.numel() > 1 and bool(value.abs().max() < 1e3)
        return torch.randn(value.shape, generator=generator) if states and bool(value.any()) else value.clone()
    if isinstance(value, Mapping) and type(value) is dict:
        return {name: _fresh(each, generator) for name, each in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_fresh(each, generator) for each in value)
    return None if "Cache" in type(value).__name__ else value
