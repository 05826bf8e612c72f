"""What must hold before a plan is applied: bindings, weights that are there, optimizers that train this model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sparsify.errors import PlanError, did_you_mean
from sparsify.layers import adapters
from sparsify.optimizers import parameters_of, refuse_other_weights
from sparsify.plan import Plan
from sparsify.recipe import Recipe

SHOWN = 3


def check_bindings(recipe: Recipe, bindings: Mapping[str, Any], settled: Collection[str] = ()) -> dict[str, Any]:
    """Return the bindings, all declared and all required ones there but those that are settled. Raises PlanError."""
    known = recipe.needs()
    for name in bindings:
        if name not in known:
            hint = did_you_mean(name, known) or " (the recipe declares no bindings)"
            raise PlanError(f"apply() got an unknown binding {name!r}{hint}")
    for name, binding in known.items():
        if binding.required and bindings.get(name) is None and name not in settled:
            wanted = f" ({binding.description})" if binding.description else ""
            raise PlanError(f"the recipe needs {name!r}{wanted}: give it as apply(…, {name}=…)")
    return dict(bindings)


def check_optimizers(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Raise PlanError for optimizers that keep other copies of the weights, or hold none of the model's parameters."""
    own = {id(parameter) for parameter in model.parameters()}
    for optimizer in optimizers:
        refuse_other_weights(optimizer)
        if own and not any(id(parameter) in own for parameter in parameters_of([optimizer])):
            raise PlanError(
                f"the {type(optimizer).__name__} given to apply() holds none of the model's parameters: make it from "
                "model.parameters() of this very model, after its last change"
            )


def check_weights(plan: Plan) -> None:
    """Raise PlanError for weights that are not there: on the meta device, or offloaded."""
    missing = [
        weight.name
        for modifier in plan.modifiers
        for weight in (*modifier.masked, *modifier.touches)
        if weight.parameter.is_meta
    ]
    if missing:
        raise PlanError(
            f"{_some(missing)}: the weights are not there (on the meta device, or offloaded); load them before apply()"
        )


def notes(plan: Plan, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> list[str]:
    """Return notes on what only weights and optimizers tell. Raises PlanError for adapters that could not learn."""
    return [*_untrained(plan, optimizers), *_locked(plan, model)]


def _locked(plan: Plan, model: nn.Module) -> list[str]:
    """Return notes on trainable weights that are all zero and would stay so; raise PlanError where they are adapters'.

    Those of adapters are zero because nothing has been learned yet; others may belong to a model that was pruned.
    """
    locks = [modifier for modifier in plan.modifiers if modifier.keeps_zeros and modifier.window.begin == 0]
    trained = (weight for lock in locks for weight in lock.weights if weight.parameter.requires_grad)
    empty = {weight.name: weight for weight in trained if not bool(weight.tensor.any())}
    of_adapters = adapters(model) if empty else {}
    if stuck := [name for name, weight in empty.items() if id(weight.parameter) in of_adapters]:
        raise PlanError(
            f"{_some(stuck)}: all zero before the training, as adapters begin, and zeros are kept from step 0: nothing "
            "could be learned; leave adapters out of `targets`"
        )
    if not empty:
        return []
    return [f"{_some(list(empty))}: all zero, trained, and kept at zero; `exclude` what only begins at zero"]


def _untrained(plan: Plan, optimizers: Sequence[torch.optim.Optimizer]) -> list[str]:
    """Return notes on trainable weights that are targeted, but that no optimizer trains."""
    held = {id(parameter) for parameter in parameters_of(optimizers)}
    names = [w.name for w in plan.targeted() if w.parameter.requires_grad and id(w.parameter) not in held]
    return [f"{_some(names)}: pruned, but trained by no optimizer given to apply()"] if names else []


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
