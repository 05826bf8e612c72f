"""Models for planning: the architecture without its weights."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from sparsify.errors import PlanError, did_you_mean


def skeleton(name: str) -> nn.Module:
    """Return the model of a transformers configuration on the meta device: shapes, no weights.

    `name` is a folder with `config.json`, or a hub name. Raises PlanError.
    """
    try:
        import transformers
    except ModuleNotFoundError:
        raise PlanError("--model needs transformers: pip install 'sparsify-torch[transformers]'") from None
    config = config_of(name)
    kind = getattr(transformers, (getattr(config, "architectures", None) or [""])[0], None)
    with torch.device("meta"):
        model = kind(config) if kind is not None else transformers.AutoModel.from_config(config)
    assert isinstance(model, nn.Module)
    return model


def config_of(name: str) -> object:
    from transformers import AutoConfig, logging

    logging.set_verbosity_error()
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise PlanError(f"{name}: the folder holds no config.json")
    if folder.is_file():
        raise PlanError(f"{name} is a file; give the folder that holds config.json, or a hub name")
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        near = [str(other) for other in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise PlanError(f"{name}: no such folder{did_you_mean(name, near, most=0)}")
    try:
        return AutoConfig.from_pretrained(name)
    except Exception as error:
        offline = " (offline: HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PlanError(f"{name}: no configuration to be had{offline}: {reason[:200]}") from None
