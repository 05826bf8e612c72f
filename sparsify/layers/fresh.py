"""Which parameters no checkpoint has given a value."""

from __future__ import annotations

from torch import nn


def new_parameters(model: nn.Module) -> list[str]:
    """Return the parameters that a checkpoint lacked, so that transformers made them anew, as for a fresh head.

    Empty where nothing was loaded, or somebody else has loaded it; adapters do not count.
    """
    loaded = {name: bool(getattr(p, "_is_hf_initialized", False)) for name, p in model.named_parameters()}
    if not any(loaded.values()):
        return []
    return [name for name, done in loaded.items() if not done and "lora_" not in name]
