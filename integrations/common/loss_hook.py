"""The loss of a trainer that has no event for it: `outputs.loss` of the model is given to the manager first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class LossHook:
    """A forward hook on the model itself, so that DDP and torch.compile, which wrap it, run it.

    In training mode the loss that the model returns becomes what `change(loss, outputs)` makes of it. Copies of the
    model, and pickles, have a hook that does nothing.
    """

    def __init__(self, change: Callable[[Tensor, Any], Tensor] | None = None) -> None:
        self.change = change

    @torch.compiler.disable
    def __call__(self, model: nn.Module, arguments: Any, named: Any, outputs: Any) -> Any:
        if self.change is None or not model.training or not torch.is_grad_enabled():
            return None
        if isinstance(outputs, Mapping) and isinstance(outputs.get("loss"), Tensor):
            outputs["loss"] = self.change(outputs["loss"], outputs)  # type: ignore[index]
        elif isinstance(outputs, tuple) and outputs and isinstance(outputs[0], Tensor) and outputs[0].dim() == 0:
            return (self.change(outputs[0], outputs), *outputs[1:])
        return None

    def __deepcopy__(self, memo: Any) -> LossHook:
        return LossHook()

    def __reduce__(self) -> tuple[type[LossHook], tuple[()]]:
        return LossHook, ()


def attach(model: nn.Module, change: Callable[[Tensor, Any], Tensor]) -> Any:
    """Have the losses of a model's forwards changed by `change(loss, outputs)`; return the handle that ends it."""
    return model.register_forward_hook(LossHook(change), with_kwargs=True)
