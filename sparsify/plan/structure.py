"""What a recipe changes of a model's structure: decided for all modifiers, made once, remembered by the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sparsify.anatomy import read
from sparsify.errors import PlanError, Problem
from sparsify.layers.outline import outline
from sparsify.modifiers import Modifier
from sparsify.modifiers.structural import StructureContext
from sparsify.recipe import Recipe
from sparsify.recipe.problems import in_order
from sparsify.state_reader import StateReader
from sparsify.structure.change import Change

MADE = "_sparsify_structure"
"""The attribute of a model in which the changes that were made are kept: plain data by the modifier as JSON. Copies of
the model have it too."""


@dataclass(frozen=True)
class Structure:
    """What is decided, and what of it is still to be made."""

    changes: dict[str, Change] = field(default_factory=dict)
    """All changes, by the key of the modifier."""

    open: dict[str, Modifier] = field(default_factory=dict)
    """The modifiers whose changes are still to be made."""

    def shown(self, model: nn.Module) -> nn.Module:
        """Return the model as it will be: itself where nothing is to be done, else an outline of it."""
        if not any(self.changes[key].alters for key in self.open):
            return model
        changed = outline(model)
        for key, modifier in self.open.items():
            modifier.restructure(changed, self.changes[key])
        return changed

    def make(self, model: nn.Module) -> list[nn.Parameter]:
        """Make what is to be done, in place; return the parameters that are not the model's any more."""
        lost = []
        for key, modifier in self.open.items():
            lost += modifier.restructure(model, self.changes[key])
            made = {**vars(model).get(MADE, {}), _mark(modifier): self.changes[key].to_state()}
            setattr(model, MADE, made)
        return lost


def decide(
    recipe: Recipe,
    model: nn.Module,
    *,
    bindings: Mapping[str, Any] | None = None,
    earlier: Mapping[str, Change] | None = None,
    measures: bool = False,
) -> Structure:
    """Return what the recipe changes of the structure. The model is not changed; what it has made already counts.

    `earlier` are the changes of a saved training that is gone on with. Raises PlanError with every reason why the
    structure cannot change so.
    """
    found, problems = Structure(), list[Problem]()
    seen, anatomy = model, read(model) if any(modifier.restructures() for _, modifier in recipe.keyed()) else None
    for number, stage in enumerate(recipe.staged()):
        for index, (key, modifier) in enumerate(stage.keyed()):
            if not modifier.restructures():
                continue
            path = ("stages", number, "modifiers", index)
            context = StructureContext(
                key, anatomy, bindings or {}, measures, (earlier or {}).get(key), dict(found.changes)
            )
            change = made(model, modifier)
            if number:
                context.problem("changes the structure, which is done before the training: put it in the first stage")
            elif change is None:
                change = modifier.choose(seen, context)
                found.open[key] = modifier
                if change is not None and change.alters:  # what stands after it is decided on what it leaves
                    seen = outline(seen)
                    modifier.restructure(seen, change)
                    anatomy = read(seen)
            if change is not None:
                found.changes[key] = change
            problems += [recipe.problem(message, *path, *below) for below, message in context.problems]
    if problems:
        raise PlanError(in_order(problems))
    return found


def made(model: nn.Module, modifier: Modifier) -> Change | None:
    """Return the change that a modifier like this one has made to the model before, or None."""
    mark = _mark(modifier)
    for module in model.modules():
        if mark in vars(module).get(MADE, ()):
            return Change.from_state(StateReader(vars(module)[MADE][mark], MADE))
    return None


def _mark(modifier: Modifier) -> str:
    return modifier.model_dump_json(by_alias=True, exclude={"name"}, exclude_none=True)
