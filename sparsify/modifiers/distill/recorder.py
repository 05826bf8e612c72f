"""What passes through a model in one forward: its arguments and outputs, what comes out of layers, attention maps.

Hooks on the modules see it, so that nobody has to ask for hidden states, and the outputs stay as they are.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.errors import HookError

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Seen:
    """One forward."""

    arguments: Arguments = ((), {})
    outputs: Any = None
    hidden: dict[str, Tensor] = field(default_factory=dict)
    """By the name of the layer."""

    maps: dict[str, Tensor] = field(default_factory=dict)
    """`[batch, heads, queries, keys]`, by the name of the attention block."""


class Hook:
    """A hook on a module. Copies of the module, and pickles, have one that does nothing."""

    def __init__(self, call: Callable[..., Any] | None = None) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> None:
        if self._call is not None:
            self._call(*arguments)

    def __deepcopy__(self, memo: Any) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()


class Recorder:
    """Records the forwards of a model in which `wanted()`; `layers` and `attentions` are modules by name."""

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        attentions: Mapping[str, nn.Module],
        wanted: Callable[[], bool],
    ) -> None:
        self._wanted, self._open = wanted, False
        self._seen: Seen | None = None
        self._whole = False
        self._passed_over: list[weakref.ref[Tensor]] = []
        """Outputs of the forwards before the last one that no loss was handed over of."""

        self.handles = list(self._watch(model, layers, attentions))

    def _watch(
        self, model: nn.Module, layers: Mapping[str, nn.Module], attentions: Mapping[str, nn.Module]
    ) -> Iterator[Any]:
        # whether a forward is wanted changes with the step, for which a compiled graph must not be made anew
        begin = Hook(torch.compiler.disable(self._begin))  # type: ignore[no-untyped-call]
        yield model.register_forward_pre_hook(begin, with_kwargs=True, prepend=True)
        for name, module in layers.items():
            yield module.register_forward_hook(Hook(self._layer(name)))
        for name, module in attentions.items():
            yield module.register_forward_hook(Hook(self._attention(name)))
        yield model.register_forward_hook(Hook(self._end), with_kwargs=True, prepend=True)

    def _begin(self, module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self._whole and not torch.is_grad_enabled():
            return  # an evaluation between a forward and its loss
        passed_over = [each for each in self._passed_over if each() is not None]
        if self._seen is not None and self._whole:
            passed_over += [weakref.ref(tensor) for tensor in tensors_of(self._seen.outputs)]
        self.clear()
        self._passed_over = passed_over
        if self._wanted():
            self._seen, self._open = Seen((positional, dict(named))), True

    def _layer(self, name: str) -> Callable[..., None]:
        def see(module: nn.Module, arguments: Any, output: Any) -> None:
            if self._open and self._seen is not None:
                self._seen.hidden[name] = output[0] if isinstance(output, (tuple, list)) else output

        return see

    def _attention(self, name: str) -> Callable[..., None]:
        def see(module: nn.Module, arguments: Any, output: Any) -> None:
            if self._open and self._seen is not None and (found := attention_map(output)) is not None:
                self._seen.maps[name] = found

        return see

    def _end(self, module: nn.Module, positional: Any, named: Any, outputs: Any) -> None:
        if self._open and self._seen is not None:
            self._seen.outputs, self._whole = outputs, True
        self._open = False  # what a backward computes again is not recorded

    def clear(self) -> None:
        """Forget."""
        self._seen, self._whole, self._open, self._passed_over = None, False, False, []

    def take(self, outputs: Any = None) -> Seen:
        """Return the last whole forward, once. Raises HookError where there is none, or `outputs` are of one before."""
        seen, whole = self._seen, self._whole
        passed_over = {tensor.data_ptr() for each in self._passed_over if (tensor := each()) is not None}
        self.clear()
        if any(tensor.data_ptr() in passed_over for tensor in tensors_of(outputs)):
            raise HookError(
                "on_loss() was given the outputs of a forward that was not the last one: call it right after each "
                "forward, before the next (an evaluation between them belongs under torch.no_grad())"
            )
        if seen is None or not whole:
            raise HookError(
                "on_loss() without a forward of the model before it: call it once for each forward in training mode, "
                "with the loss of that forward"
            )
        return seen


def tensors_of(outputs: Any) -> Iterator[Tensor]:
    """Yield the tensors by which the outputs of a forward are known: what is given on to other forwards is not."""
    if isinstance(outputs, Mapping):
        parts = [value for name, value in outputs.items() if "logits" in name or name in ("loss", "last_hidden_state")]
    else:
        parts = list(outputs[:2]) if isinstance(outputs, (tuple, list)) else [outputs]
    return (part for part in parts if isinstance(part, Tensor) and part.numel())


def attention_map(output: Any) -> Tensor | None:
    """Return the attention probabilities among what an attention block returns: the last tensor of four dimensions."""
    found = (
        [part for part in output if isinstance(part, Tensor) and part.dim() == 4] if isinstance(output, tuple) else []
    )
    return found[-1] if found else None


def without_maps(model: nn.Module) -> str | None:
    """Return why a model gives no attention probabilities, or None."""
    config: Any = getattr(model, "config", None)
    made = getattr(config, "_attn_implementation", "eager")
    if made in (None, "eager"):
        return None
    return f'with {made} attention there are no attention maps: load the model with attn_implementation="eager"'
