"""Before a training: what a recipe changes of a model's structure, and what modifiers must have seen before."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sparsify.agreement import share_first
from sparsify.errors import PlanError
from sparsify.layers import unwrap
from sparsify.optimizers import forget
from sparsify.plan.structure import Structure, decide, made
from sparsify.recipe import Recipe
from sparsify.structure.change import Change

SHARED = "the processes began with different weights: all continue with those of the first, as under DDP"


@dataclass(frozen=True)
class Attached:
    """A model (without wrappers) whose structure is as the recipe wants it."""

    model: nn.Module
    snapshots: Mapping[str, Any] = field(default_factory=dict)
    """What modifiers needed of the model as it was before anything changed, by key."""

    lost: tuple[weakref.ref[nn.Parameter], ...] = ()
    """The parameters that it has no more."""

    notes: tuple[str, ...] = ()

    def release(self, optimizers: list[torch.optim.Optimizer]) -> None:
        """Take the parameters that the model has no more out of optimizers that were made before."""
        forget(optimizers, [parameter for each in self.lost if (parameter := each()) is not None])


def attach(recipe: Recipe, model: nn.Module, earlier: Mapping[str, Change], bindings: Mapping[str, Any]) -> Attached:
    """Make the changes of structure, unless they were made before. Raises PlanError, and changes nothing then."""
    recipe, inner = recipe.resolve(), unwrap(model)
    notes = (SHARED,) if share_first(inner) else ()
    structure = decide(recipe, inner, bindings=bindings, earlier=earlier, measures=True)
    _refuse_wrapped(model, structure)
    snapshots = {key: modifier.snapshot(inner) for key, modifier in recipe.keyed()}
    lost = tuple(weakref.ref(parameter) for parameter in structure.make(inner))
    return Attached(inner, snapshots, lost, notes)


def restructures(recipe: Recipe) -> bool:
    """Whether a recipe changes the structure of a model."""
    return any(modifier.restructures() for _, modifier in recipe.resolve().keyed())


def settled(recipe: Recipe, model: nn.Module) -> set[str]:
    """Return the bindings that are not needed any more: those by which a structure was chosen that is there."""
    inner, modifiers = unwrap(model), [modifier for _, modifier in recipe.resolve().keyed()]
    done = {name for each in modifiers if each.restructures() and made(inner, each) for name in each.bindings()}
    return done - {name for each in modifiers if not each.restructures() for name in each.bindings()}


def _refuse_wrapped(model: nn.Module, structure: Structure) -> None:
    """Raise PlanError where the structure would change under something that has looked at the model already."""
    key = next((key for key in structure.open if structure.changes[key].alters), None)
    if key is None:
        return
    wrapper = type(model).__name__ if unwrap(model) is not model else None
    for module in unwrap(model).modules():
        name = type(module).__name__
        if name == "OptimizedModule" or name.startswith("FSDP") or "FullyShardedDataParallel" in name:
            wrapper = name
        if vars(module).get("_compiled_call_impl") is not None:
            wrapper = "compile()"
    if wrapper is not None:
        raise PlanError(
            f"{key} changes the structure of the model, which {wrapper} has seen already: call "
            "Manager(recipe).attach(model) before the model is compiled, wrapped or sharded, and apply() of that "
            "manager afterwards"
        )
