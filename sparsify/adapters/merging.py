"""Adapters merged into their base, whose zeros stay zeros."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsify.adapters.saving import base_of, outermost
from sparsify.applied import at_work
from sparsify.errors import HookError, PlanError, SparsityError, did_you_mean
from sparsify.layers import Weight, adapters, base_names, originals, weights
from sparsify.masking.project import project_


def merge(
    model: nn.Module, names: Sequence[str] | None = None, *, empty: Literal["keep", "fill"] | None = None
) -> nn.Module:
    """Merge adapters into the base under them as PEFT's `merge_and_unload` does, but keep its zeros; return the base.

    What is zero in a matrix of the base stays zero, and a bias of zero in a row of zeros too: what the adapter adds is
    masked as its base is, W' = W + mask · s·B·A. Everything else is bit by bit what PEFT makes of it, whatever the
    kind of adapter: of DoRA, too, that is its merged matrix under the mask. What an adapter adds to zeros is lost, so
    measure the model again, or train it on. The zeros of a pruned base are its masks: it works after `finalize`, and
    on a sparse model that was loaded.

    `names` are the adapters to merge, by default the active ones. A matrix that is zero as a whole may be pruned, or a
    layer that was made so, to learn through its adapter: `empty` says whether such stay zero ("keep") or take what the
    adapter adds ("fill"); without it they are an error. The model that was given is used up, as by PEFT.

    Raises PlanError for what cannot be merged, HookError while a manager is at work on the model; nothing is changed
    then. A PlanError that says that the model is partly merged comes from PEFT, in the midst of it.
    """
    base, outer = base_of(model), outermost(model)
    _check(model, base, outer, names)
    masks = _masks(base, empty)
    try:
        merged = outer.merge_and_unload(safe_merge=True, adapter_names=None if names is None else list(names))
    except Exception as error:  # PEFT raises of every kind
        raise PlanError(f"PEFT could not merge: {error}; the model is partly merged now, load it again") from None
    parameters, before = dict(merged.named_parameters(remove_duplicate=False)), base_names(merged)
    found = {before[name]: parameter for name, parameter in parameters.items()}
    for name, mask in masks.items():
        project_(found[name].detach(), mask.to(found[name].device))
    if alive := [name for name, mask in masks.items() if bool(found[name].detach()[~mask].any())]:
        raise SparsityError(f"{alive[0]}: zeros of the base are not zero after merging")
    return merged  # type: ignore[no-any-return]


def _check(model: nn.Module, base: nn.Module, outer: Any, names: Sequence[str] | None) -> None:
    """Raise PlanError or HookError for what cannot be merged, before anything is."""
    if at_work(model):
        raise HookError("a manager is still applied to this model: finalize() or detach() it before merging adapters")
    if not callable(getattr(outer, "merge_and_unload", None)):
        raise PlanError(f"{type(outer).__name__} has no merge_and_unload: adapters of its kind cannot be merged")
    if isinstance(names, str):
        raise PlanError(f"names are a list of adapters, got {names!r}")
    for name in names or ():
        if name not in outer.peft_config:
            raise PlanError(f"the model has no adapter {name!r}{did_you_mean(name, outer.peft_config)}")
    theirs = adapters(base)
    for name, parameter in base.named_parameters():
        if id(parameter) in theirs and not bool(parameter.isfinite().all()):
            raise PlanError(f"{name} has values that are not finite: nothing can be made of it")
    for name, module in _adapted_layers(base):
        if any(getattr(module, "lora_bias", {}).values()) and getattr(module.base_layer, "bias", None) is None:
            raise PlanError(f"{name} has a bias in its adapter (lora_bias), and none in its base to merge it into")


def _adapted_layers(base: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in base.named_modules() if "base_layer" in module._modules)


@torch.no_grad()
def _masks(base: nn.Module, empty: str | None) -> dict[str, Tensor]:
    """Return the masks of what lies under adapters, by the names that it has without them; True where it is not zero.

    Raises PlanError for matrices that are all zero, unless `empty` says what they are.
    """
    before = base_names(base)
    found: dict[str, Tensor] = {}
    nothing = []
    for weight in _originals(base):
        name = before.get(weight.parameter_name)
        if name is None:
            continue
        mask = weight.tensor != 0
        if not bool(mask.any()):
            nothing.append(name)
        if not bool(mask.all()) and (empty == "keep" or bool(mask.any())):
            found[name] = mask
            bias = weight.bias()
            if bias is not None and bias.parameter.dim() == 1 and bias.parameter_name in before:
                found[before[bias.parameter_name]] = weight.cube(mask).flatten(1).any(1) | (bias.tensor != 0)
    if nothing and empty is None:
        raise PlanError(
            f"{nothing[0]} is all zero under its adapter: give merge(…, empty='keep') if it was pruned, or "
            "empty='fill' if it only began at zero"
        )
    return found


def _originals(base: nn.Module) -> Iterator[Weight]:
    """Yield the matrices under adapters, and those in whose place others are trained, each as a whole."""
    seen: set[int] = set()
    for path, module in originals(base):
        for below, part in module.named_modules():
            for weight in weights(f"{path}.{below}" if below else path, part):
                if id(weight.parameter) not in seen:
                    seen.add(id(weight.parameter))
                    yield weight.whole
