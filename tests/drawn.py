"""How many examples hypothesis draws: a part of them by default, all in the long suite (`make test-slow`)."""

from __future__ import annotations

import os

from hypothesis import settings

EVERY = "SPARSIFY_EVERY_EXAMPLE"
"""The variable of the environment that asks for all."""


def examples(count: int) -> settings:
    """Return settings with `count` examples; by default with a quarter of them, and 40 at least."""
    return settings(max_examples=count if os.environ.get(EVERY) else max(count // 4, 40))
