"""Which major of transformers is installed (both are supported), and what tests do about the older one."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest

OLD = int(version("transformers").partition(".")[0]) < 5
OLD_WARNINGS = (
    "ignore:`torch.jit.script:DeprecationWarning",
    "ignore:The `device` argument is deprecated:FutureWarning",
)
"""What version 4 says about itself beside the newest torch: filters for pytest."""


def of_transformers(name: str) -> Any:
    """Return a class of transformers; skips the test where this version has none."""
    import transformers

    found = getattr(transformers, name, None)
    if found is None:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    return found
