"""Models whose widths a configuration cannot say: saved as ordinary folders with a file beside, and loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsify import pretrained, widths
from sparsify.checkpoint import replace_folder, write_text
from sparsify.compaction.stock import per_layer
from sparsify.errors import StateError, first_line
from sparsify.files import read_json
from sparsify.layers import unwrap
from sparsify.structure.configs import is_configured
from sparsify.structure.rebuilt import make
from sparsify.widths import Widths

WEIGHTS = "model.safetensors"


def save(model: nn.Module, folder: str | Path) -> Path:
    """Save a model to a folder, which may be a smaller one: safetensors, config.json, and widths that it cannot say.

    Where config.json says everything the folder is one that stock transformers loads; else `sparsify.load` does, and
    stock transformers refuses it. Of a model that is none of transformers the weights alone are saved. A folder of that
    name is replaced once the new one is whole. Raises StateError where that is not possible.

    Examples:
        >>> import tempfile, torch, sparsify
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2))
        >>> folder = tempfile.mkdtemp()
        >>> _ = sparsify.save(model, folder + "/small")
        >>> again = sparsify.load(folder + "/small", model=torch.nn.Sequential(torch.nn.Linear(4, 2)))
        >>> torch.equal(again[0].weight, model[0].weight)
        True
    """
    base: Any = unwrap(model)
    folder = Path(folder)
    if any(isinstance(each, torch.sparse.SparseSemiStructuredTensor) for each in base.parameters()):
        raise StateError("weights have the form of 2:4 kernels, which no file holds: sparsify.to_dense(model) first")
    check_place(folder)
    if not is_configured(base):
        return replace_folder(folder, lambda made: _save_weights(base, made))
    wide = _widths(base, base.config)

    def fill(made: Path) -> None:
        try:
            base.save_pretrained(made)
        except (RuntimeError, ValueError) as error:  # such as weights that are shared, and that nothing says are
            raise StateError(f"{type(base).__name__} cannot be saved by transformers: {first_line(error)}") from None
        if wide:
            put_widths(made, wide, per_layer(base))

    return replace_folder(folder, fill)


def save_widths(model: nn.Module, folder: Path) -> None:
    """Write the widths of a model that was loaded with some beside what `save_pretrained` wrote. Raises StateError."""
    base: Any = unwrap(model)
    if getattr(base, widths.MARK, False) and (wide := _widths(base, base.config)):
        put_widths(folder, wide, per_layer(base))


def put_widths(folder: Path, wide: Widths, layers: dict[int, dict[str, int]]) -> None:
    """Write widths beside the configuration in a folder, and into it what it can say of single layers."""
    if layers:
        path = folder / "config.json"
        said = {**read_json(path), "per_layer_config": {str(index): fields for index, fields in layers.items()}}
        write_text(path, json.dumps(said, indent=2, sort_keys=True) + "\n")
    write_text(folder / widths.FILE, wide.to_json())


def load(folder: str | Path, model: nn.Module | None = None, **named: Any) -> nn.Module:
    """Return the model that `save` wrote, in evaluation mode; without one of ours it is as stock transformers loads it.

    `model` is one of the same structure before it was made smaller, for what is no model of transformers: it gets the
    widths and the weights, in place. `named` go to transformers' `from_pretrained`. Raises PlanError for a folder that
    holds no model, StateError for damaged files, or weights of another model.

    Examples:
        >>> import sparsify
        >>> sparsify.load("nowhere")
        Traceback (most recent call last):
        sparsify.errors.PlanError: ...
    """
    if model is None:
        return pretrained.from_folder(folder, **named).eval()
    if named:
        raise StateError(f"{next(iter(named))} is for models of transformers, and does not go with a model")
    _load_weights(model, Path(folder))
    return model.eval()


def _widths(model: Any, config: Any) -> Widths:
    """Return what the configuration does not say. Raises StateError where that is more than widths."""
    try:
        found = Widths.between(model, make(model, config))
    except Exception as error:  # whatever a class of the user's own wants beside a configuration
        raise StateError(f"no {type(model).__name__} can be made of its configuration: {first_line(error)}") from None
    if found is None:
        kind = type(model).__name__
        raise StateError(f"the modules of {kind} are not those that its configuration makes: save it yourself")
    if not found.tensors:
        for path, numbers in found.attributes.items():
            name = next((name for name, value in numbers.items() if not isinstance(value, float)), None)
            if name is not None:
                raise StateError(
                    f"{path}.{name} is not what its configuration says: stock transformers would not notice"
                )
        return Widths()  # a rate of dropout, say: it is lost as ever
    return found


def check_place(folder: Path) -> None:
    """Raise StateError where a folder holds what must not be replaced, or is the one that somebody works in."""
    if folder.exists() and folder.samefile(Path.cwd()):
        raise StateError(f"{folder} is the working folder, which cannot be replaced: name another one")
    if folder.exists() and not _is_model(folder):
        raise StateError(
            f"{folder} holds more than a model, or something else: it would be replaced; choose another folder"
        )


def _is_model(folder: Path) -> bool:
    """Whether a folder is empty, or holds a model and nothing else: only such a one is replaced.

    A run with checkpoints in it, or a project that happens to have a `config.json`, is none: all of it would be gone.
    """
    if not folder.is_dir():
        return False
    there = list(folder.iterdir())
    names = {path.name for path in there}
    if not names or names <= {WEIGHTS, widths.FILE}:
        return True
    weights = any(name.endswith((".safetensors", ".bin")) for name in names)
    return "config.json" in names and weights and not any(path.is_dir() for path in there)


def _save_weights(model: nn.Module, folder: Path) -> None:
    """Write the weights of what has no configuration, and all its widths beside them."""
    from safetensors.torch import save_model

    save_model(model, str(folder / WEIGHTS))
    write_text(folder / widths.FILE, Widths.of(model).to_json())


def _load_weights(model: nn.Module, folder: Path) -> None:
    from safetensors.torch import load_model

    wide = widths.read(folder)
    if wide is None or not (folder / WEIGHTS).is_file():
        raise StateError(f"{folder} holds no model that sparsify.save wrote without a configuration")
    wide.put(model)
    try:
        load_model(model, str(folder / WEIGHTS))
    except Exception as error:  # whatever is no such file, or of another model
        raise StateError(f"{folder / WEIGHTS} does not fit {type(model).__name__}: {first_line(error)}") from None
