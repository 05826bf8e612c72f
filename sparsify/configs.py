"""Configurations of transformers models: read from a folder or the hub, checked, and never run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsify.errors import PlanError, did_you_mean, first_line
from sparsify.files import contents, read_json
from sparsify.weight_files import check_index
from sparsify.widths import FILE as WIDTHS
from sparsify.widths import of_globals

MOST_LAYERS = 10_000
IN_PYTHON = "load the model yourself and give it in Python: Plan.of(recipe, model, total_steps=…)"


def library() -> Any:
    """Return transformers. Raises PlanError where it is not installed."""
    try:
        import transformers
    except ModuleNotFoundError:
        raise PlanError("models need transformers: pip install 'sparsify-torch[transformers]'") from None
    return transformers


def config_of(name: str) -> Any:
    """Return the configuration of a folder or hub name. Code that comes with it is never run, nor asked about.

    Raises PlanError: for what is no configuration, for code of its own, for quantized weights, for absurd sizes, for
    weights outside the folder.
    """
    transformers = library()
    transformers.logging.set_verbosity_error()
    raw = _raw(name)
    if quantized := _quantized(raw):
        raise PlanError(
            f"{name}: its weights are quantized ({quantized}), and what is quantized cannot be pruned: "
            "use the model as it was before"
        )
    _check_known(name, raw)
    _check_weights(name, raw)
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # the library raises of every kind
        raise PlanError(f"{name}: config.json cannot be used: {first_line(error)}") from None
    _check_size(name, raw)
    return of_globals(config) if os.path.isfile(Path(name) / WIDTHS) else config


def has_own_code(config: Any) -> bool:
    """Whether a model comes with code of its own, which is never run: transformers' own class stands for it."""
    return bool(getattr(config, "auto_map", None))


def _raw(name: str) -> Mapping[str, Any]:
    """Return what config.json says."""
    folder = Path(name)
    if os.path.isdir(name):
        if not os.path.lexists(folder / "config.json"):
            adapter = os.path.isfile(folder / "adapter_config.json")
            why = " but that of an adapter: merge it into its model, and save that" if adapter else ""
            raise PlanError(f"{name}: the folder holds no config.json{why}")
        if not isinstance(read_json(folder / "config.json", PlanError), dict):
            raise PlanError(f"{folder / 'config.json'} is no configuration: it holds no keys")
    elif os.path.isfile(name):
        raise PlanError(f"{name} is a file; give the folder that holds config.json, or a hub name")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        near = [str(other) for other in contents(folder.parent)]
        raise PlanError(f"{name}: no such folder{did_you_mean(name, near, most=0)}")
    try:
        raw, _ = library().PretrainedConfig.get_config_dict(name)
    except Exception as error:
        offline = " (offline: HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        raise PlanError(f"{name}: its configuration cannot be loaded{offline}: {first_line(error)}") from None
    return raw if isinstance(raw, dict) else {}


def _quantized(raw: Mapping[str, Any]) -> str:
    """Return how the weights of a model, or of a part of it, are quantized; empty where they are not."""
    for _, part in _parts(raw):
        for key in ("quantization_config", "compression_config"):
            if found := part.get(key):
                method = found.get("quant_method") if isinstance(found, dict) else None
                return str(method or key)
    return ""


def _check_known(name: str, raw: Mapping[str, Any]) -> None:
    """Raise PlanError for a kind of model that transformers does not have."""
    kind, kinds = raw.get("model_type"), list(library().CONFIG_MAPPING)
    if isinstance(kind, str) and kind in kinds:
        return
    what = f"has the model_type {kind!r}, which transformers {library().__version__} does not know"
    if kind is None:
        what = "has no model_type, so it does not say which model it is"
    if raw.get("auto_map"):
        raise PlanError(
            f"{name}: config.json {what}, and names code of its own (auto_map), which is never run: {IN_PYTHON}"
        )
    hint = did_you_mean(kind, kinds, most=0) if isinstance(kind, str) else ""
    raise PlanError(f"{name}: config.json {what}{hint}; of another library, {IN_PYTHON}")


def _check_weights(name: str, raw: Mapping[str, Any]) -> None:
    """Raise PlanError where weights would be read from other files than those of the folder, of the usual names."""
    if own := raw.get("transformers_weights"):
        raise PlanError(f"{name}: config.json names a file of weights of its own (transformers_weights: {own!r})")
    if os.path.isdir(name):
        check_index(Path(name), PlanError)


def _check_size(name: str, raw: Mapping[str, Any]) -> None:
    """Raise PlanError for more layers than any model has: each would be made, one by one."""
    for path, part in _parts(raw):
        for key, value in part.items():
            if not any(word in key for word in ("layer", "block", "depth", "stages")):
                continue
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int) and number > MOST_LAYERS:
                    raise PlanError(
                        f"{name}: config.json asks for {number} layers ({path}{key}), more than {MOST_LAYERS}"
                    )


def _parts(raw: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a configuration and those within it, each with its path."""
    yield path, raw
    for key, value in raw.items():
        if isinstance(value, dict) and "quantization" not in key:
            yield from _parts(value, f"{path}{key}.")
