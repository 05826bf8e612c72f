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
IN_ORDER: dict[str, Any] = {} if OLD else {"train_sampling_strategy": "sequential"}
"""Arguments with which the Trainer takes rows in their order; before version 5 a class does it (`in_order`)."""


def in_order(kind: Any) -> Any:
    """Return a Trainer that takes rows in their order when it is given `IN_ORDER`."""
    if not OLD:
        return kind
    from torch.utils.data import SequentialSampler

    class InOrder(kind):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    return InOrder


def of_transformers(name: str) -> Any:
    """Return a class of transformers; skips the test where this version has none."""
    import transformers

    found = getattr(transformers, name, None)
    if found is None:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    return found
