"""The base under adapters, saved as the ordinary model that it was before they came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparsify.checkpoint import replace_folder
from sparsify.errors import PlanError, StateError
from sparsify.layers import adapted, base_names, unwrap
from sparsify.plan import Plan
from sparsify.plan.adapted import altered

TAKING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""How LoRA begins (`init_lora_weights`) where it changes the base."""


def alters_base(plan: Plan, model: nn.Module) -> bool:
    """Whether a plan changes weights or structure under adapters, which saving the adapters leaves out."""
    return bool(altered(unwrap(model), plan.modifiers, plan.changes))


def trains_base(model: nn.Module) -> bool:
    """Whether weights of the base are trained beside the adapters."""
    base = base_of(model)
    names = base_names(base)
    return any(p.requires_grad for name, p in base.named_parameters() if name in names)


def base_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the base under adapters, by the names that it had before they came; they are not copied.

    Raises PlanError for a model without adapters, and for one into which they are merged.
    """
    base = base_of(model)
    state = base.state_dict()
    return {before: state[name].detach() for name, before in base_names(base).items()}


def save_base(model: nn.Module, folder: str | Path) -> Path:
    """Save the base under a model's adapters to a folder, as an ordinary model with its zeros; return the folder.

    Adapters that are saved from now on name it as their base, so that
    `PeftModel.from_pretrained(AutoModelFor….from_pretrained(folder), adapter)` is the model as it is now, and so is
    what PEFT's `AutoPeftModelFor….from_pretrained(adapter)` loads. A folder of that name is replaced once the new one
    is whole. Raises PlanError for a model without adapters, with merged ones, or whose base has no `save_pretrained`;
    StateError where the folder cannot be written, holds something else, or is where the base was loaded from.
    """
    base, folder = base_of(model), Path(folder)
    if not callable(getattr(base, "save_pretrained", None)):
        raise PlanError(
            f"{type(base).__name__} has no save_pretrained: save sparsify.adapters.base_state_dict(model) by yourself"
        )
    check_folder(model, folder)
    state = base_state_dict(model)

    def fill(made: Path) -> None:
        with _without_adapters(base):
            base.save_pretrained(made, state_dict=state)

    replace_folder(folder, fill)
    name_base(model, folder)
    return folder


def check_folder(model: nn.Module, folder: Path) -> None:
    """Raise StateError for a folder in which a base would replace what is no model, or the one that it came from."""
    empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not empty and not (folder / "config.json").is_file():
        raise StateError(f"{folder} holds something that is no model: the pruned base is saved there; move it away")
    source = getattr(base_of(model), "name_or_path", None)
    if isinstance(source, str) and source and folder.exists() and Path(source).resolve() == folder.resolve():
        raise StateError(f"{folder} is where the base was loaded from, and the pruned one would replace it")


def name_base(model: nn.Module, folder: Path) -> None:
    """Have adapters that are saved from now on name a folder as their base."""
    for config in outermost(model).peft_config.values():
        for key, value in naming(vars(config), folder).items():
            setattr(config, key, value)


def naming(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what must be said differently in the configuration of an adapter whose base is saved in a folder.

    Kinds of LoRA that begin by taking something out of the base (PiSSA, …) have taken it out of that one: once more,
    when the adapter is loaded, would be once too often.
    """
    found: dict[str, Any] = {"base_model_name_or_path": str(folder.resolve())}
    if "revision" in config:
        found["revision"] = None  # of the base that was named before
    if str(config.get("init_lora_weights")).lower().startswith(TAKING):
        found["init_lora_weights"] = True
    return found


def outermost(model: nn.Module) -> Any:
    """Return the model that adapters were put into, as PEFT gives it. Raises PlanError where there is none."""
    found = [module for _, module in adapted(unwrap(model))]
    if len(found) != 1:
        raise PlanError(
            f"{type(model).__name__} has no adapters of PEFT"
            if not found
            else f"{type(model).__name__} holds {len(found)} models with adapters: give one of them"
        )
    return found[0]


def base_of(model: nn.Module) -> Any:
    """Return the model under its adapters. Raises PlanError where there are none, or where they are merged."""
    outer = outermost(model)
    base = outer.get_base_model() if hasattr(outer, "get_base_model") else outer
    merged = [name for name, module in base.named_modules() if is_merged(module)]
    if merged:
        raise PlanError(f"{merged[0]}: its adapter is merged into the base: call unmerge_adapter() first")
    return base


def is_merged(module: nn.Module) -> bool:
    """Whether an adapter's weights are in those of the layer under it now."""
    return "base_layer" in module._modules and bool(getattr(module, "merged_adapters", None))


@contextmanager
def _without_adapters(base: Any) -> Iterator[None]:
    """Have transformers save a base as a model of its own, though it knows of adapters itself (`add_adapter`)."""
    own = {name: base.__dict__.pop(name) for name in ("_hf_peft_config_loaded",) if name in base.__dict__}
    try:
        yield
    finally:
        base.__dict__.update(own)
