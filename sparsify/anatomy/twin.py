"""A random twin of a model: the same modules with other weights, to be run without touching the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.anatomy.samples import Call, needed, of_modules, samples
from sparsify.errors import named_line
from sparsify.layers import adapters
from sparsify.layers.outline import bare, redrawn

POOL = (1 << 24) - 3
"""The most random numbers that are drawn: 64 MB. A prime, so that where they are repeated no two rows are alike."""

SMALL = (16, 32, 64)
"""Sides of the images that a block is tried with."""

LARGEST = 3 << 28
"""The most bytes of a block's weights, which are its own while it is tried: 768 MB."""


class UnverifiedError(Exception):
    """A block cannot be tried; says why."""


class _SeenError(Exception):
    """What was waited for has been seen."""


class Twin:
    """A model's modules with random weights, float32 on the CPU; the model, its buffers and hooks stay as they are.

    All parameters are views of one pool of random numbers, so that a twin takes hardly any memory; one that is larger
    than the pool has the same rows again and again.
    """

    def __init__(self, model: nn.Module) -> None:
        largest = max((parameter.numel() for parameter in model.parameters()), default=0)
        self.generator = torch.Generator().manual_seed(0)
        self._calls: dict[str, Call | None] = {}
        """How the model calls the layer whose blocks are tried; None where that is not known."""

        self.pool = torch.rand(min(largest, POOL), generator=self.generator).sub_(0.5)
        pool = self.pool * 0.3
        self.model = redrawn(
            bare(model),
            lambda _, value: _drawn(pool, value.shape) if isinstance(value, nn.Parameter) else _like(value),
        )

    @contextmanager
    def own_weights(self, name: str) -> Iterator[None]:
        """Give a block random weights of its own, as large as those of a trained model, for a while.

        Raises UnverifiedError where they would be too many.
        """
        block = self.model.get_submodule(name)
        count = sum(parameter.numel() for parameter in block.parameters())
        if 4 * count > LARGEST:
            raise UnverifiedError(f"it has {count:,} weights, too many to try")
        shared = [(module, dict(module._parameters)) for module in block.modules()]
        self._draw(name, block)
        try:
            yield
        finally:
            for module, parameters in shared:
                module._parameters.update(parameters)

    def _draw(self, block_name: str, block: nn.Module) -> None:
        """Draw the weights of a block; those of adapters are zero, for they stay where what is under them dies."""
        beside = set(adapters(self.model).values())
        for path, module in block.named_modules():
            parts = f"{block_name}.{path}".removesuffix(".").split(".")
            silent = any(".".join(parts[:depth]) in beside for depth in range(1, len(parts) + 1))
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    value = self._own(parameter.shape)
                    if silent:
                        value.zero_()
                    elif parameter.dim() > 1:
                        value *= math.sqrt(12 / max(math.prod(parameter.shape[1:]), 1))
                    elif name == "weight":
                        value += 1
                    module._parameters[name] = nn.Parameter(value, requires_grad=False)

    def _own(self, shape: torch.Size) -> Tensor:
        """Return a tensor with numbers from the pool, from some place on, again from its start where it ends."""
        value, pool = torch.empty(shape), self.pool
        flat, done = value.view(-1), 0
        start = int(torch.randint(len(pool), (), generator=self.generator))
        while done < len(flat):
            part = pool[start : start + len(flat) - done]
            flat[done : done + len(part)] = part
            done, start = done + len(part), 0
        return value

    def calls(self, name: str, layer: str = "") -> Iterator[Call]:
        """Yield arguments with which a block can be called: hidden states alone, then as its layer and the model do it.

        Raises UnverifiedError where neither is found out.
        """
        block = self.model.get_submodule(name)
        names = needed(block)
        for args, named in of_modules(block, sides=SMALL):
            if isinstance(block, nn.MultiheadAttention):
                args *= 3
            yield args, named
            if len(names) > 1:
                yield args, dict.fromkeys(names[1:])
        yield from self._in_layer(block, layer if layer != name else "")
        yield from self._caught(name, block)

    def _in_layer(self, block: nn.Module, layer: str) -> Iterator[Call]:
        """Yield the arguments with which a layer calls a block: the model runs once for all blocks of the layer."""
        if layer and layer not in self._calls:
            self._calls.clear()
            try:
                self._calls[layer] = next(self._caught(layer, self.model.get_submodule(layer)), None)
            except UnverifiedError:
                self._calls[layer] = None
        if not layer:
            return
        around, known = self.model.get_submodule(layer), self._calls.get(layer)
        # where the model cannot be run, hidden states may be all that the layer takes
        for call in of_modules(around, sides=SMALL) if known is None else [known]:
            with suppress(Exception):  # whatever a model that we do not know says; the whole model is run next
                yield self._catch(block, around, *call)

    def _caught(self, name: str, block: nn.Module) -> Iterator[Call]:
        """Yield the arguments with which parts of the model call a block."""
        reasons: list[str] = []
        count = 0
        for root in self._roots(name):
            for args, kwargs in samples(root):
                try:
                    call = self._catch(block, root, args, kwargs)
                except Exception as error:  # whatever a model that we do not know says
                    reasons.append(named_line(error))
                    continue
                count += 1
                yield call
        if not count:
            raise UnverifiedError(f"it could not be run ({reasons[0] if reasons else 'nothing calls it'})")

    def _catch(self, block: nn.Module, root: nn.Module, args: Any, kwargs: Any) -> Call:
        seen: list[Call] = []

        def look(_: nn.Module, given: Any, named: Any) -> None:
            args, kwargs = (_fresh(each, self.generator) for each in (given, named))
            if args:
                args = (_filled(args[0], self.generator), *args[1:])
            elif kwargs:
                name, first = next(iter(kwargs.items()))
                kwargs[name] = _filled(first, self.generator)
            seen.append((args, kwargs))
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


def _drawn(pool: Tensor, shape: torch.Size) -> Tensor:
    """Return a tensor of numbers from a pool, without copies."""
    if shape.numel() <= len(pool):
        return pool[: shape.numel()].view(shape)
    row = pool[: shape[1:].numel()]
    return row.view(shape[1:]).expand(shape) if len(row) == shape[1:].numel() else pool[:1].expand(shape)


def _like(buffer: Tensor) -> Tensor:
    """Return a buffer of the same form: zeros where it counts, True where it says, small numbers where it measures."""
    if buffer.dtype == torch.bool:
        return torch.ones(buffer.shape, dtype=torch.bool)
    if buffer.is_floating_point():
        return torch.linspace(0.1, 0.9, max(buffer.numel(), 1))[: buffer.numel()].view(buffer.shape)
    return torch.zeros(buffer.shape, dtype=buffer.dtype)


def _filled(states: Any, generator: torch.Generator) -> Any:
    """Return hidden states with random numbers where they begin as zeros, as those of DETR's decoder do."""
    empty = isinstance(states, Tensor) and states.is_floating_point() and states.dim() >= 3 and not bool(states.any())
    return torch.randn(states.shape, generator=generator) if empty else states


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
