"""Adapters (LoRA and its kin, as PEFT puts them into a model): which parameters are theirs, and what lies under them.

A layer with an adapter holds the original as its child `base_layer`, and the adapter's own modules beside it. A module
that is trained in another's place holds that one as `original_module`, and the trained copies beside it. A model that
was adapted has a `peft_config`: saved by `save_pretrained`, it leaves everything out that is not an adapter's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

TUNED = "BaseTunerLayer"
"""PEFT's class of layers with an adapter."""

COPIES = ("modules_to_save", "token_adapter")
"""What stands beside an `original_module`."""


def adapters(model: nn.Module) -> dict[int, str]:
    """Return id of a parameter → the name of the module that holds the adapter (`….q_proj.lora_A`), of all adapters.

    Copies that are trained in place of a module are none: they are the module.
    """
    found: dict[int, str] = {}
    for name, module in model.named_modules():
        if is_adapted(module) and (prompts := module._modules.get("prompt_encoder")) is not None:
            path = f"{name}.prompt_encoder" if name else "prompt_encoder"
            found |= {id(parameter): path for parameter in prompts.parameters()}
        if "base_layer" not in module._modules or all(cls.__name__ != TUNED for cls in type(module).__mro__):
            continue
        under = {id(parameter) for parameter in module._modules["base_layer"].parameters()}
        for child, held in module._modules.items():
            if child != "base_layer" and held is not None:
                path = f"{name}.{child}" if name else child
                found |= {id(parameter): path for parameter in held.parameters() if id(parameter) not in under}
    return found


def base_of(model: nn.Module) -> nn.Module:
    """Return the model under a wrapper with adapters (`PeftModel`), whose class says what it computes; else itself."""
    base = getattr(model, "get_base_model", None)
    found = base() if hasattr(model, "peft_config") and callable(base) else model
    return found if isinstance(found, nn.Module) else model


def under(module: nn.Module) -> str | None:
    """Return the name of the child that holds the original of an adapted module; None where nothing is adapted."""
    children = module._modules
    if children.get("base_layer") is not None:
        return "base_layer"
    if "original_module" in children and any(children.get(name) is not None for name in COPIES):
        return "original_module" if children["original_module"] is not None else "token_adapter"
    return None


def in_use(module: nn.Module) -> str:
    """Return the path below a module of what computes in its place, adapters aside; empty for the module itself.

    `base_layer` of a layer with an adapter, the active copy of a module that is trained as a whole.
    """
    child = under(module)
    if child != "original_module":
        return child or ""
    copies = module._modules.get("modules_to_save")
    active = getattr(module, "active_adapters", None) or getattr(module, "active_adapter", None)
    names = [active] if isinstance(active, str) else list(active or ())
    held = copies._modules if copies is not None else {}
    return next((f"modules_to_save.{name}" for name in names if name in held), child)


def originals(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that lie under adapters, or in whose place copies are trained, with their names."""
    for name, module in model.named_modules():
        if (child := under(module)) is not None:
            yield (f"{name}.{child}" if name else child), module._modules[child]


def adapted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost modules that `save_pretrained` saves the adapters of alone, with their names."""
    inside: list[str] = []
    for name, module in model.named_modules():
        if is_adapted(module) and not any(name.startswith(outer) for outer in inside):
            inside.append(f"{name}." if name else "")
            yield name, module


def is_adapted(module: nn.Module) -> bool:
    """Whether PEFT has put adapters into a model, so that saving it saves the adapters alone."""
    configs: Any = getattr(module, "peft_config", None)
    return isinstance(configs, Mapping) and bool(configs)


def base_names(model: nn.Module) -> dict[str, str]:
    """Return name in `model.state_dict()` → the name that it had before adapters came; without what is an adapter's."""
    wrappers = {name: child for name, module in model.named_modules() if (child := under(module)) is not None}
    found = {name: _before(name.split("."), wrappers) for name in model.state_dict()}
    return {name: before for name, before in found.items() if before is not None}


def _before(parts: Sequence[str], wrappers: Mapping[str, str]) -> str | None:
    """Return a name without the children that hold originals; None for what stands beside one."""
    kept: list[str] = []
    for place, part in enumerate(parts):
        child = wrappers.get(".".join(parts[:place]))
        if child is None:
            kept += [part] if part != "_orig_mod" else []  # a layer that was compiled by itself
        elif part != child:
            return None
    return ".".join(kept)
