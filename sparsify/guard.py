"""A model's `state_dict()` in the middle of a step: the sparse model, as outside of it.

After Ctrl-C, or in the middle of an accumulation, people save. Latent weights, or gates of one step, must not get into
their files; the model itself is left alone, for the step may go on.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn

from sparsify.loop import Loop


class Guard:
    """A hook on `state_dict`. Copies of the model, and pickles, have one that does nothing."""

    def __init__(self, loop: Loop | None = None) -> None:
        self._loop = (lambda: None) if loop is None else weakref.ref(loop)

    def __call__(self, module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        loop = self._loop()
        if loop is None or not (loop.transaction.phase == "ready" or loop.masks.sampled):
            return
        values = loop.masks.at_rest(stepped=loop.transaction.stepped)
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if id(parameter) in values and f"{prefix}{name}" in state:
                state[f"{prefix}{name}"] = values[id(parameter)]

    def __deepcopy__(self, memo: Any) -> Guard:
        return Guard()

    def __reduce__(self) -> tuple[type[Guard], tuple[()]]:
        return Guard, ()


def watch(model: nn.Module, loop: Loop) -> Any:
    """Guard a model's `state_dict`; return the handle that ends it."""
    register = getattr(model, "register_state_dict_post_hook", model._register_state_dict_hook)
    return register(Guard(loop))
