"""The one place where a folder, or a packed file, becomes a model that is measured."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from sparsify.pretrained import load


def load_model(path: Path) -> nn.Module:
    """Return the model of a folder or a packed file in float32, ready for inference. Raises PlanError, StateError."""
    if not path.is_file():
        return load(path)
    from sparsify.storage import from_packed

    return from_packed(path).float().eval()
