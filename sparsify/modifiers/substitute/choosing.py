"""From a model to the norms and activations that are substituted; or to the reasons why that cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from sparsify.errors import did_you_mean
from sparsify.modifiers.structural import StructureContext
from sparsify.modifiers.substitute import saying
from sparsify.selectors import matcher
from sparsify.structure.change import Substituted
from sparsify.substitutes import Gradual, NoNorm, function_of, is_norm, put


def norms(
    model: nn.Module, targets: Sequence[str] | None, exclude: Sequence[str], context: StructureContext
) -> tuple[tuple[str, ...], bool, dict[str, tuple[str, str]]]:
    """Return the norms that are meant, whether their weights must be marked, and what configurations will say."""
    every = {name: m for name, m in model.named_modules() if is_norm(m) or isinstance(m, NoNorm)}
    meant = _without_head(model, every) if targets is None else {}
    for key, selectors in (("targets", targets or ()), ("exclude", exclude)):
        for place, selector in enumerate(selectors):
            matches = matcher(selector)
            hit = {name: module for name, module in every.items() if matches(name, module)}
            if not hit:
                near = did_you_mean(selector, list(every))
                context.problem(f"{selector!r} matches no norm{near}", key, place)
            meant = {**meant, **hit} if key == "targets" else {n: m for n, m in meant.items() if n not in hit}
    stock = [name for name, module in meant.items() if type(module).__name__ == "NoNorm" and is_norm(module)]
    chosen = tuple(name for name in every if name in meant and name not in stock)
    if not chosen and not stock and not context.problems:
        context.problem(f"{type(model).__name__} has no norms (LayerNorm, RMSNorm) that could be substituted", "norms")
    unknown: dict[str, list[str]] = {}
    for name in chosen:
        if not isinstance(every[name], NoNorm) and function_of(every[name]) is None:
            unknown.setdefault(type(every[name]).__name__, []).append(name)
    for kind, names in unknown.items():
        context.problem(
            f"{len(names)} {kind} ({_some(names)}): neither w·(x − μ)/σ + b nor w·x/rms(x), with a weight of one "
            "dimension and no state of their own; `exclude` them",
            "norms",
        )
    _refuse_fused(model, chosen, "norms", context)
    said = _said(model, chosen)
    return chosen, said is None, said or {}


def _without_head(model: nn.Module, every: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the norms of the model under the task head, where it is told apart."""
    prefix = getattr(model, "base_model_prefix", "")
    if not prefix or not isinstance(getattr(model, prefix, None), nn.Module):
        return every
    return {name: module for name, module in every.items() if name.startswith(f"{prefix}.")}


def _said(model: nn.Module, chosen: tuple[str, ...]) -> dict[str, tuple[str, str]] | None:
    """Return the fields by which configurations can say that just these are NoNorm, or None."""
    fields: dict[str, tuple[str, str]] = {}
    governed: list[str] = []
    for name, module in saying.configured(model):
        values = saying.fields_of(module.config, saying.NORMS)
        if not values:
            return None
        before = {field: saying.old_value(field, value) for field, value in values.items()}
        after = {field: saying.new_value(field, value) for field, value in values.items()}
        try:
            one, other = (dict(saying.made_of(module, each).named_modules()) for each in (before, after))
        except Exception:  # whatever a class of the user's own wants beside a configuration
            return None
        start = f"{name}." if name else ""
        governed += [start + n for n in one if type(one[n]) is not type(other.get(n))]
        fields |= {field: (value, after[field]) for field, value in values.items() if value != after[field]}
    return fields if governed and set(governed) == set(chosen) else None


def activations(model: nn.Module, context: StructureContext) -> tuple[tuple[str, ...], dict[str, tuple[str, str]]]:
    """Return the activations that a configuration governs, and what it will say."""
    places: list[str] = []
    fields: dict[str, tuple[str, str]] = {}
    there = list(saying.configured(model))
    if not there:
        context.problem(
            f"no configuration says which activation {type(model).__name__} has, so nothing that loads its weights "
            "would know of the ReLU: write it into the model's code",
            "activations",
        )
    for name, module in there:
        values = saying.fields_of(module.config, saying.ACTIVATIONS)
        kind = type(module.config).__name__
        if not values:
            context.problem(f"no field of {kind} that is known names an activation", "activations")
            continue
        before = {field: saying.old_value(field, value) for field, value in values.items()}
        after = {field: saying.new_value(field, value) for field, value in values.items()}
        try:
            one, other = (saying.made_of(module, each) for each in (before, after))
        except Exception as error:  # whatever a class of the user's own wants beside a configuration
            text = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            context.problem(f"no model can be made of {kind} to see what it governs: {text}", "activations")
            continue
        found = list(_differing(one, other))
        if not found:
            context.problem(f"{', '.join(values)} of {kind} governs no activation that is known", "activations")
        start = f"{name}." if name else ""
        strange = [start + path for path, made in found if not _as_made(model, start + path, made)]
        if strange:
            context.problem(f"{_some(strange)}: not what {kind} makes; changed by hand?", "activations")
        places += [start + path for path, _ in found]
        fields |= {field: (value, after[field]) for field, value in values.items() if value != after[field]}
    _refuse_fused(model, places, "activations", context)
    return tuple(places), fields


def _differing(one: nn.Module, other: nn.Module) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the places where two models have different functions without weights, and both functions."""
    theirs = dict(other.named_modules())
    for name, module in one.named_modules():
        twin = theirs.get(name)
        if twin is None:
            continue
        for attribute, child in {**vars(module), **module._modules}.items():
            second = twin._modules.get(attribute, vars(twin).get(attribute))
            if isinstance(child, nn.Module):
                differs = not _holds(child) and isinstance(second, nn.Module) and type(child) is not type(second)
            else:
                differs = callable(child) and callable(second) and child is not second and not attribute.startswith("_")
                differs = differs and hasattr(child, "__name__") and not hasattr(child, "__self__")
            if differs:
                yield (f"{name}." if name else "") + attribute, (child, second)


def _holds(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None or next(module.buffers(), None) is not None


def _as_made(model: nn.Module, path: str, made: tuple[Any, Any]) -> bool:
    """Whether what stands at a place is what the configuration makes there, before or afterwards."""
    parent, _, attribute = path.rpartition(".")
    try:
        found = getattr(model.get_submodule(parent), attribute)
    except AttributeError:
        return False
    if isinstance(found, Gradual):
        return True
    return any(type(found) is type(each) if isinstance(each, nn.Module) else found is each for each in made)


def _refuse_fused(model: nn.Module, paths: Sequence[str], key: str, context: StructureContext) -> None:
    """Refuse layers that compute norms and activations in a kernel of their own."""
    for name, module in model.named_modules():
        inside = [path for path in paths if path.startswith(f"{name}.")] if name else list(paths)
        if inside and isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
            context.problem(f"{inside[0]} is in a {type(module).__name__}, whose fused kernel would pass it by", key)
            return


def substitute(model: nn.Module, change: Substituted) -> None:
    """Put modules in place that still compute what stood there. What is substituted already stays."""
    for path in change.norms:
        norm = model.get_submodule(path)
        if not isinstance(norm, NoNorm):
            function = function_of(norm)
            assert function is not None, path
            put(model, path, NoNorm(norm, *function, marked=change.marked, done=False))
    for path in change.activations:
        parent, _, attribute = path.rpartition(".")
        old = getattr(model.get_submodule(parent), attribute)
        if not isinstance(old, (Gradual, nn.ReLU)) and old is not nn.functional.relu:
            device = next((p.device for p in model.parameters()), None)
            put(model, path, Gradual(old, device))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
