"""`sparsify train` is for transformers 5 and later."""

from __future__ import annotations

import pytest

from tests.majors import OLD


@pytest.fixture(scope="session", autouse=True)
def _not_before_5() -> None:
    if OLD:
        pytest.skip("`sparsify train` needs transformers 5")
