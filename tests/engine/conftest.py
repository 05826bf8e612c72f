"""The engine's tests run where its library was compiled; where there is a compiler and none was, that is a failure."""

from __future__ import annotations

import pytest

from sparsify.engine import build, library


@pytest.fixture(autouse=True)
def engine() -> None:
    reason = library.missing()
    if reason is not None and build.compiler() is None:
        pytest.skip(reason)
    assert reason is None, reason
