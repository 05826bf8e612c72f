from __future__ import annotations

from pathlib import Path

import pytest

from sparsify.serving.model import Served
from tests.serving.served import classifier


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small classifier of texts."""
    return classifier(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def served(folder: Path) -> Served:
    """Return what is served of the folder of a test's module."""
    return Served.open(folder, engine="torch")
