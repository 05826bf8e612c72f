"""The plan: recipe × model × number of steps, known before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sparsify.anatomy.coverage import Coverage, coverage
from sparsify.layers import Weight, merged, unwrap
from sparsify.modifiers.plans import ModifierPlan
from sparsify.plan import show
from sparsify.plan.places import Places, places
from sparsify.plan.planner import Planner, StagePlan, total_of
from sparsify.plan.show import Shown
from sparsify.plan.structure import decide
from sparsify.recipe import Recipe
from sparsify.structure.change import Change

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """What will happen: print it, compare it, keep it as JSON."""

    recipe: Recipe
    model: str
    parameters: int
    total_steps: int | None
    steps_per_epoch: int | None
    stages: tuple[StagePlan, ...]
    modifiers: tuple[ModifierPlan, ...]
    notes: tuple[str, ...]
    coverage: Coverage | None = None
    """How much of the model's matrices the modifiers act on, and what they leave out; None where they act on none."""

    changes: Mapping[str, Change] = field(default_factory=dict)
    """What modifiers change of the model's structure before the training, by key; all else is as it is afterwards."""

    places: Places = field(default_factory=dict, repr=False, compare=False)
    """Where the tensors stand in the model, for people who read the plan."""

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        model: nn.Module,
        *,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        epochs: int | None = None,
        example_inputs: Any = None,
    ) -> Plan:
        """Resolve a recipe against a model (weights are not read; the meta device will do) and a clock.

        A recipe that drops layers is planned for what will be left; the model itself stays as it is.

        `total_steps` and `steps_per_epoch` count optimizer steps; `epochs` × `steps_per_epoch` stands for
        `total_steps`. `example_inputs` are what the model's forward takes (a tensor, a tuple, a mapping by name), for
        patterns that follow channels; without them they are guessed.
        Raises PlanError with every reason why the recipe does not fit.

        Examples:
            >>> import torch
            >>> from sparsify import Plan, Recipe
            >>> recipe = Recipe.parse("{version: 1, modifiers: [{type: prune, targets: '*', sparsity: 0.5}]}")
            >>> with torch.device("meta"):  # no weights are needed
            ...     model = torch.nn.Sequential(torch.nn.Linear(512, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
            >>> plan = Plan.of(recipe, model, total_steps=100)
            >>> plan.modifiers[0].nonzeros
            66816
            >>> print(plan.closing())
            the recipe covers 100 % of the 133,632 matrix weights
            >>> wrong = Recipe.parse("{version: 1, modifiers: [{type: prune, targets: 'encoder.*', sparsity: 0.5}]}")
            >>> Plan.of(wrong, model, total_steps=100)
            Traceback (most recent call last):
            sparsify.errors.PlanError: ...: 'encoder.*' matches nothing in Sequential (one of: 0, 2)
        """
        model = unwrap(model)
        recipe = recipe.resolve()
        total = total_of(total_steps, steps_per_epoch, epochs)
        structure = decide(recipe, model)
        model = structure.shown(model)
        planner = Planner(recipe, model, total, steps_per_epoch, structure.changes, example_inputs)
        planner.run()
        targeted = [weight for modifier in planner.plans for weight in modifier.weights]
        return cls(
            recipe=recipe,
            model=type(model).__name__,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            total_steps=total,
            steps_per_epoch=steps_per_epoch,
            stages=tuple(planner.stages),
            modifiers=tuple(planner.plans),
            notes=tuple(dict.fromkeys(planner.notes)),
            coverage=coverage(model, planner.anatomy, targeted) if targeted else None,
            changes=structure.changes,
            places=places(planner.anatomy),
        )

    def stage_at(self, step: int) -> str:
        """Return the name of the stage in which `step` completed steps lie."""
        for stage in self.stages:
            if stage.end is None or step < stage.end:
                return stage.name
        return self.stages[-1].name

    def targeted(self) -> list[Weight]:
        """Return the weights that the modifiers mask, each once: parts of one parameter together."""
        return merged(weight for modifier in self.modifiers for weight in modifier.weights)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "format": FORMAT,
            "recipe": {"name": self.recipe.name, "sha256": self.recipe.sha256},
            "model": {"type": self.model, "parameters": self.parameters},
            "total_steps": self.total_steps,
            "steps_per_epoch": self.steps_per_epoch,
            "stages": [{"name": s.name, "begin": s.begin, "end": s.end} for s in self.stages],
            "structure": [{"key": key, **change.to_dict()} for key, change in self.changes.items()],
            "modifiers": [modifier.to_json() for modifier in self.modifiers],
            "coverage": None if self.coverage is None else self.coverage.to_dict(),
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """Return the plan as JSON text, stable and diffable."""
        return json.dumps(self.to_dict(), indent=2)

    def headline(self) -> str:
        """Return one line about the whole."""
        steps = f"{self.total_steps} steps" if self.total_steps is not None else "any number of steps"
        name = self.recipe.name or "recipe"
        return f"{name} ({self.recipe.sha256[:12]}) on {self.model}, {self.parameters:,} parameters, {steps}"

    def closing(self) -> str:
        """Return one line about what is covered; empty where nothing is pruned."""
        return "" if self.coverage is None else f"the recipe {self.coverage}"

    def text(self, *, tensors: bool = False) -> str:
        """Return the plan as text: roles and layers, or every tensor."""
        return show.text(self.headline(), self.modifiers, self.closing(), self.notes, Shown(self.places, tensors))

    def parts(self, *, tensors: bool = False) -> Iterator[Any]:
        """Yield what rich prints of the plan: roles and layers, or every tensor."""
        return show.tables(self.headline(), self.modifiers, self.closing(), self.notes, Shown(self.places, tensors))

    def __str__(self) -> str:
        return self.text()

    def __rich_console__(self, console: Any, options: Any) -> Any:
        """Yield tables for rich (`rich.print(plan)`)."""
        return self.parts()
