"""What of a LightningModule is trained under the recipe, and for how long."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from sparsify import PlanError

REHEARSED = {"total_steps": 100_000, "steps_per_epoch": 1000}
"""The length that `fast_dev_run` rehearses: its own, one batch, is no training that a recipe could be planned for."""

Which = str | Callable[[Any], nn.Module] | None


def trained(module: nn.Module, which: Which) -> nn.Module:
    """Return a part of a LightningModule: by name, or by what a function returns.

    Without either: the only child that has parameters, if it has children itself; else the whole. Raises PlanError.
    """
    if isinstance(which, str):
        try:
            return module.get_submodule(which)
        except AttributeError:
            raise PlanError(f"model={which!r}: the {type(module).__name__} has no such module") from None
    if which is not None:
        found = which(module)
        if not isinstance(found, nn.Module):
            raise PlanError(f"model: the function returned a {type(found).__name__}, not a module")
        return found
    children = [child for child in module.children() if any(True for _ in child.parameters())]
    own = any(True for _ in module.parameters(recurse=False))
    return children[0] if len(children) == 1 and not own and any(True for _ in children[0].children()) else module


def length(trainer: Any, *, resumed: bool) -> dict[str, int | None]:
    """Return `total_steps` and `steps_per_epoch` of a training that is about to begin; None for what is not known.

    A training that goes on without a checkpoint, as a second `fit` may, has what is left.
    """
    if trainer.fast_dev_run:
        return dict(REHEARSED)
    try:
        total = trainer.estimated_stepping_batches
    except Exception as error:  # Lightning's own: accumulation changes from epoch to epoch
        if type(error).__name__ != "MisconfigurationException":
            raise
        return {"total_steps": None, "steps_per_epoch": None}
    batches, steps = trainer.num_training_batches, None
    if math.isfinite(batches):
        steps = max(math.ceil(batches / trainer.accumulate_grad_batches), 1)
    if not math.isfinite(total) or total < 0:
        return {"total_steps": None, "steps_per_epoch": steps}
    return {"total_steps": int(total) - (0 if resumed else trainer.global_step), "steps_per_epoch": steps}
