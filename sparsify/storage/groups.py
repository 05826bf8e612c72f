"""Which tensors are linear weights of the encoder, embeddings, or the rest: for sizes, and for integers."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from sparsify import anatomy
from sparsify.errors import SparsifyError
from sparsify.layers import TABLES
from sparsify.pretrained import saved_names, skeleton

ENCODER, MATRICES, EMBEDDINGS, REST = "encoder linear", "matrices", "embeddings", "rest"


class Groups:
    """Sorts tensors by architecture, where there is a config.json that transformers knows; else by name and shape."""

    def __init__(self, directory: Path | None = None) -> None:
        model = _architecture(directory)
        found = anatomy.read(model) if model is not None else None
        self._layers = tuple(f"{layer.name}." for layer in found.layers) if found else ()
        self._renamed = saved_names(model) if model is not None else {}
        self._embeddings = _embeddings(model) if model is not None else None

    def of(self, name: str, dimensions: int) -> str:
        """Return the group of a tensor of so many dimensions, by its name in the file."""
        name = self._renamed.get(name, name)
        if self._embeddings is None and "embed" in name.lower():
            return EMBEDDINGS
        if self._embeddings is not None and name in self._embeddings:
            return EMBEDDINGS
        if dimensions < 2:
            return REST
        if self._layers:
            return ENCODER if name.startswith(self._layers) else REST
        return MATRICES


def _architecture(directory: Path | None) -> nn.Module | None:
    if directory is None or not os.path.isfile(directory / "config.json") or find_spec("transformers") is None:
        return None
    try:
        return skeleton(str(directory))
    except SparsifyError:
        return None


def _embeddings(model: nn.Module) -> set[str]:
    """Return the names of all tables of embeddings, those of tied parameters too."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, TABLES)}
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in tables}
