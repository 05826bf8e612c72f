"""The one place where a folder becomes a model that is measured."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from sparsify.pretrained import load


def load_model(directory: Path) -> nn.Module:
    """Return the model of a folder in float32, ready for inference. Raises PlanError."""
    return load(directory)
