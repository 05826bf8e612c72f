"""From the layers of a model, and perhaps data, to those that stay; or to the reasons why that cannot be."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sparsify import ranks
from sparsify.anatomy import Layer
from sparsify.errors import PlanError, did_you_mean
from sparsify.modifiers.layer_drop.keep import Keep, least_influence, least_turning
from sparsify.modifiers.structural import StructureContext
from sparsify.selectors import layer_indices
from sparsify.structure.change import Dropped
from sparsify.structure.configs import configs, container_of, obstacle
from sparsify.structure.drop import parameters_lost, stacks
from sparsify.structure.importance import angular_distances, block_influence
from sparsify.structure.rebuilt import misfit
from sparsify.structure.tried import differs


def choose(keep: Keep, stack: str | None, model: nn.Module, context: StructureContext) -> Dropped | None:
    """Return the layers that stay, or None after reporting problems. The model is not changed."""
    layers = _stack(stack, model, context)
    if layers is None:
        return None
    dropped = [other for other in context.others.values() if isinstance(other, Dropped)]
    if any(layers[0].stack == other.stack for other in dropped):
        context.problem(f"an earlier modifier drops layers of {layers[0].stack}: one drops them all")
        return None
    change = _change(keep, layers, model, context)
    if change is None or len(change.kept) == change.layers:
        return change
    before = len(context.problems)
    _check(layers, change, model, context)
    return change if len(context.problems) == before else None


def _stack(stack: str | None, model: nn.Module, context: StructureContext) -> list[Layer] | None:
    """Return the layers of the stack that is meant."""
    found, kind = stacks(context.anatomy), type(model).__name__
    if not found:
        context.problem(f"{kind} has no layers: nothing repeats in it")
        return None
    if stack is None and len(found) > 1:
        context.problem(f"{kind} has {len(found)} stacks of layers ({', '.join(found)}): say which by `stack`")
        return None
    meant = [name for name in found if stack in (None, name)]
    meant = meant or [name for name in found if stack in name.split(".")]
    if len(meant) == 1:
        return found[meant[0]]
    if meant:
        context.problem(f"{stack!r} may mean any of {', '.join(meant)}: give the whole name", "stack")
    else:
        words = dict.fromkeys(word for name in found for word in (*name.split("."), name))
        hint = did_you_mean(stack or "", words, most=0) or f" (it has: {', '.join(found)})"
        context.problem(f"{kind} has no stack of layers {stack!r}{hint}", "stack")
    return None


def _change(keep: Keep, layers: Sequence[Layer], model: nn.Module, context: StructureContext) -> Dropped | None:
    """Return which layers the recipe, a saved state or data say."""
    stack, total = layers[0].stack, len(layers)
    if keep.layers is not None:
        for place, text in enumerate(keep.layers):
            if max(layer_indices((text,))) >= total:
                context.problem(f"{stack} has the layers 0 to {total - 1}, got {text!r}", "keep", "layers", place)
                return None
    elif (keep.count or 0) > total:
        context.problem(f"{stack} has {total} layers: it cannot keep {keep.count}", "keep", "count")
        return None
    if keep.measured and keep.count != total:
        found = _measured(keep, layers, model, context)
        if found is None:
            return None
        kept, scores, chosen = found
    else:
        kept, scores, chosen = keep.numbers(total), (), True
    return Dropped(stack, total, kept, parameters_lost(model, layers, kept), scores, chosen)


def _measured(
    keep: Keep, layers: Sequence[Layer], model: nn.Module, context: StructureContext
) -> tuple[tuple[int, ...], tuple[float, ...], bool] | None:
    """Return what data say: the layers that stay, what was measured, and whether it was."""
    assert keep.count is not None
    total, earlier = len(layers), context.earlier
    fixed = {layer.index for layer in layers if layer.fixed}
    block = total - keep.count
    if total - len(fixed) < block:
        reason = next(layer.fixed for layer in layers if layer.fixed)
        context.problem(f"only {total - len(fixed)} of {total} layers can be removed: one that stays {reason}", "keep")
        return None
    if isinstance(earlier, Dropped):
        if (earlier.stack, earlier.layers, len(earlier.kept)) != (layers[0].stack, total, keep.count):
            context.problem(
                f"the saved training kept {earlier} of {earlier.stack}; this model has {total} layers in "
                f"{layers[0].stack}, of which {keep.count} are to stay: build the model as it was",
                "keep",
            )
            return None
        return earlier.kept, earlier.scores, True
    if not context.measures:
        spare = [index for index in range(total) if index not in fixed]
        return tuple(sorted((*fixed, *spare[: keep.count - len(fixed)]))), (), False
    data = context.bindings.get(keep.data)
    modules = [model.get_submodule(layer.name) for layer in layers]

    def measure() -> list[float]:
        if data is None:
            raise PlanError(f"{keep.rule} is measured on data, batches that are given as {keep.data}=…")
        if keep.rule == "angular":
            return angular_distances(model, modules, data, block, keep.compared)
        return block_influence(model, modules, data, keep.compared)

    try:
        scores = ranks.from_first(measure)
    except PlanError as error:
        context.problem(str(error), "keep", "rule")
        return None
    if keep.rule == "angular":
        kept = least_turning(scores, total, block, fixed)
    else:
        kept = least_influence(scores, keep.count, fixed)
    if not kept:
        context.problem(f"every run of {block} layers has one that must stay: use block-influence", "keep", "rule")
        return None
    return kept, tuple(scores), True


def _check(layers: Sequence[Layer], change: Dropped, model: nn.Module, context: StructureContext) -> None:
    """Report why layers cannot go."""
    gone = [layer for layer in layers if layer.index not in change.kept]
    for layer in gone:
        if layer.fixed:
            context.problem(f"layer {layer.index} of {layer.stack} cannot be removed: it {layer.fixed}", "keep")
            return
    for home in dict.fromkeys(container_of(layer) for layer in layers):
        mine = [layer for layer in layers if container_of(layer) == home]
        container = model.get_submodule(home)
        if not isinstance(container, (nn.ModuleList, nn.Sequential)):
            context.problem(f"the layers of {home or 'the model'} are no list (nn.ModuleList, nn.Sequential)", "keep")
        elif isinstance(container, nn.ModuleList) and len(container) != len(mine):
            context.problem(f"{home} has {len(container)} entries, of which {len(mine)} are layers", "keep")
        elif all(layer in gone for layer in mine):
            context.problem(f"no layer of {home} would be left: keep one at least", "keep")
    if context.problems:
        return
    why = obstacle(model, layers) or _short_cache(model, layers, change, context)
    if why is None and change.chosen:
        why = misfit(model, change, container_of(layers[0]))
        if why is None and layers[0].inferred:
            why = differs(model, layers, change)
    if why is not None:
        context.problem(f"without the layers {', '.join(map(str, change.removed))} of {change.stack}: {why}", "keep")


def _short_cache(model: nn.Module, layers: Sequence[Layer], change: Dropped, context: StructureContext) -> str | None:
    """Return why generating with a cache would fail, or None: transformers takes T5's encoder for the size of it."""
    likes_t5 = any(
        hasattr(config, "num_layers") and hasattr(config, "num_decoder_layers")
        for config in configs(model, container_of(layers[0]))
    )
    if not likes_t5 or "encoder" not in layers[0].stack.split("."):
        return None
    for name, others in stacks(context.anatomy).items():
        left = next(
            (len(each.kept) for each in context.others.values() if isinstance(each, Dropped) and each.stack == name),
            len(others),
        )
        if "decoder" in name.split(".") and left > len(change.kept):
            return (
                f"{name} has {left}, and transformers' cache has an entry for each of the encoder's: no generation "
                "with a cache; drop as many of the decoder's first"
            )
    return None
