"""What all tests share: no network, quiet libraries, small models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest
import torch
from torch import nn

from sparsify.masking import pieces
from tests.majors import OLD, OLD_WARNINGS

hypothesis.settings.register_profile("untimed", deadline=None)  # machines are shared: no test is timed
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Let the older transformers warn about itself: warnings are errors."""
    for line in OLD_WARNINGS if OLD else ():
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(autouse=True)
def _same_start():
    """Every test begins with the same random numbers and no recipes but ours on the search path."""
    torch.manual_seed(0)
    os.environ.pop("SPARSIFY_RECIPES", None)


@pytest.fixture
def mlp() -> nn.Module:
    """Return a small model: 16 → 32 → 8 → 4."""
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.fixture
def tiny_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Force every path of the fast code on small inputs."""
    monkeypatch.setattr(pieces, "CHUNK", {"cpu": 56})
    monkeypatch.setattr(pieces, "SMALL", 12)
    monkeypatch.setattr(pieces, "SAMPLE", 24)
    monkeypatch.setattr(pieces, "PIECE", 64)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what `sparsify train` wants: a small BERT, data, a recipe."""
    from tests import tiny

    folder = tmp_path_factory.mktemp("place")
    tiny.write(folder)
    return folder


@pytest.fixture
def quiet_libraries() -> Iterator[None]:
    """Let the libraries that `sparsify train` silences speak again afterwards."""
    import datasets
    import transformers

    yield
    transformers.logging.set_verbosity_warning()
    transformers.logging.enable_progress_bar()
    datasets.enable_progress_bars()


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its settings for the whole process: those of other tests must not be ours, nor ours theirs."""
    from accelerate.state import AcceleratorState, GradientState

    def reset() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    reset()
    yield
    reset()
