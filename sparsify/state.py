"""What a manager's saved state must be before it is taken up: of this format, recipe, length and weights."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from sparsify.errors import StateError
from sparsify.masking.store import MaskStore, fingerprint
from sparsify.plan import Plan

FORMAT = 1

PARTS = ("format", "recipe", "sha256", "clock", "modifiers", "masks", "weights")


def check_state(state: Mapping[str, Any], plan: Plan, *, allow_changed_recipe: bool) -> None:
    """Raise StateError for a state that is none, or that belongs to another recipe or another clock."""
    missing = set(PARTS) - set(state)
    if missing:
        raise StateError(f"not a manager's state: it lacks {', '.join(sorted(missing))}")
    if state["format"] != FORMAT:
        raise StateError(f"the state has format {state['format']}, this sparsify reads {FORMAT}")
    if allow_changed_recipe:
        return
    if state["sha256"] != plan.recipe.sha256:
        raise StateError(
            "the state was saved under another recipe (allow_changed_recipe=True goes on all the same):\n"
            + _difference(state["recipe"], plan.recipe.canonical())
        )
    for key, now in (("total_steps", plan.total_steps), ("steps_per_epoch", plan.steps_per_epoch)):
        if state["clock"][key] != now:
            raise StateError(
                f"the state was saved with {key}={state['clock'][key]}, apply() was given {now}: "
                "windows would shift (allow_changed_recipe=True goes on all the same)"
            )


def check_weights(saved: Mapping[str, int], masks: MaskStore) -> None:
    """Raise StateError if the masked parameters are not those that the state was saved with."""
    for name, weight, mask in masks:
        if fingerprint(weight.tensor) != saved.get(name) or bool((weight.tensor[~mask] != 0).any()):
            raise StateError(
                f"the weights of {name} are not those that this state was saved with; load the model's weights "
                "first, from the same checkpoint (verify_weights=False goes on all the same)"
            )


def _difference(saved: str, now: str) -> str:
    """Return a unified diff of two canonical recipes, as readable JSON lines."""
    before, after = (json.dumps(json.loads(text), indent=1).splitlines() for text in (saved, now))
    lines = list(difflib.unified_diff(before, after, "saved", "now", lineterm="", n=2))
    return "\n".join(lines[:60] + (["…"] if len(lines) > 60 else []))
