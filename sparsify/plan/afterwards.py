"""What the plan says of the end: whether a smaller model can be made, and who loads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from sparsify.anatomy import Anatomy
from sparsify.layers import Rows
from sparsify.modifiers.plans import ModifierPlan
from sparsify.recipe import Recipe
from sparsify.structure.configs import is_configured
from sparsify.structure.loadable import groups_of, heads_of, neurons_of, one, says_heads, says_neurons
from sparsify.structure.orders import reader

PLURALS = {"head": "heads", "neuron": "neurons", "channel": "channels"}


def notes(recipe: Recipe, model: nn.Module, anatomy: Anatomy | None, plans: Sequence[ModifierPlan]) -> list[str]:
    """Return the note on a recipe by which whole heads, neurons or channels die; nothing for others."""
    kinds = _dying(recipe, anatomy, {plan.key: plan for plan in plans})
    if not kinds or not is_configured(model):
        return []
    names = " and ".join(PLURALS[kind] for kind in kinds)
    reasons = list(_reasons(kinds, model, anatomy))
    how = f"sparsify.load loads the result, stock transformers does not: {'; '.join(reasons)}" if reasons else ""
    return [f"sparsify compact takes the dead {names} out afterwards; {how or 'stock transformers loads the result'}"]


def _dying(recipe: Recipe, anatomy: Anatomy | None, plans: Mapping[str, ModifierPlan]) -> dict[str, bool]:
    """Return the patterns of what dies as a whole, and whether every block of the model loses as many."""
    found: dict[str, bool] = {}
    for key, modifier in recipe.keyed():
        pattern: Any = getattr(modifier, "pattern", None)
        kind = getattr(pattern, "type", "")
        if key in plans and (kind in ("head", "neuron") or (kind == "channel" and pattern.couples)):
            apart = bool(pattern.apart or getattr(getattr(modifier, "scope", None), "type", "") == "tensor")
            found[kind] = found.get(kind, True) and apart and _all(kind, anatomy, plans[key])
    return found


def _all(kind: str, anatomy: Anatomy | None, plan: ModifierPlan) -> bool:
    """Whether a plan masks every block of the model that has heads, or neurons."""
    if anatomy is None or kind == "channel":
        return False
    blocks = anatomy.attentions if kind == "head" else anatomy.feed_forwards
    masked = Rows(plan.weights)
    return all(masked.shared(reader(block)) == reader(block).geometry.rows for block in blocks)


def _reasons(kinds: dict[str, bool], model: nn.Module, anatomy: Anatomy | None) -> Iterator[str]:
    """Yield why stock transformers would not load the smaller model."""
    if "channel" in kinds:
        yield "configurations cannot say the widths of channels"
    sizes = {"head": (heads_of, groups_of), "neuron": (neurons_of,)}
    says = {"head": says_heads, "neuron": says_neurons}
    for kind, equal in kinds.items():
        if kind == "channel" or anatomy is None:
            continue
        even = all(one(each(anatomy)) is not None for each in sizes[kind])
        if even and not says[kind](model):
            yield f"the configuration of {type(model).__name__} cannot say that it has fewer {PLURALS[kind]}"
        elif not even or not equal:
            hint = " (`equal: true` in the pattern, for all of them, keeps as many)" if even else ""
            yield f"layers will differ in their numbers of {PLURALS[kind]}{hint}"
