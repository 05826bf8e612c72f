"""Lightning under either of its names: the package that the program has imported, else the one that is installed."""

from __future__ import annotations

import importlib
import sys
from typing import Any

NAMES = ("lightning.pytorch", "pytorch_lightning")


def find() -> Any:
    """Return the package. Raises ImportError where there is none."""
    for name in NAMES:
        if name in sys.modules:
            return sys.modules[name]
    for name in NAMES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise
    raise ImportError('sparsify.integrations.lightning needs Lightning: pip install "sparsify-torch[lightning]"')


lightning: Any = find()
