from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.served import classifier


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small classifier of texts."""
    return classifier(tmp_path_factory.mktemp("served"))
