"""Pipelines over folders and packed files: the answers are those of the dense model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sparsify import engine
from sparsify.engine.layer import Sparse
from sparsify.errors import PlanError
from tests.serving.served import classifier

TEXTS = ["a fine film", "the story was very dull and long"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a classifier, 90 % of it zero."""
    from transformers import AutoModelForSequenceClassification

    folder = classifier(tmp_path_factory.mktemp("pipelines"))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(torch.rand(module.weight.shape, generator=torch.manual_seed(3)) < 0.1)
    model.save_pretrained(folder)
    return folder


@pytest.mark.skipif(engine.missing() is not None, reason="the engine is not compiled")
@pytest.mark.parametrize("packed", [False, True])
def test_saved_choices_are_followed_and_the_answers_stay(folder: Path, tmp_path: Path, packed: bool):
    plain = engine.pipeline(None, folder, engine="torch")
    model = engine.load(folder)
    chosen = engine.accelerate(engine.load(folder), margin=0.0)
    every = {
        "layers": [
            {**layer, "kernel": "unstructured"} if layer["zeros"] else layer for layer in chosen.to_dict()["layers"]
        ]
    }
    import shutil

    where = Path(shutil.copytree(folder, tmp_path / "copy"))
    engine.restore(model)
    engine.save_choices(where, engine.accelerate(model, choices={**chosen.to_dict(), **every}))
    if packed:
        from sparsify.storage import pack

        pack(where, where := tmp_path / "model.sparse")
    fast = engine.pipeline("text-classification", where)
    assert any(isinstance(module, Sparse) for module in fast.model.modules())
    for ours, theirs in zip(fast(TEXTS), plain(TEXTS), strict=True):
        assert ours == {"label": theirs["label"], "score": pytest.approx(theirs["score"], abs=1e-5)}


def test_a_task_that_does_not_fit(folder: Path, tmp_path: Path):
    with pytest.raises(PlanError, match=r"holds a BertForSequenceClassification: it does text-classification"):
        engine.pipeline("fill-mask", folder)
    with pytest.raises(PlanError, match=r"there is no task 'text-clasification' here.*text-classification"):
        engine.pipeline("text-clasification", folder)
    with pytest.raises(PlanError, match=r"there is no engine 'spars' here \(did you mean 'sparse'"):
        engine.pipeline(None, folder, engine="spars")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(PlanError, match="there is no tokenizer beside the model"):
        engine.pipeline(None, bare, engine="torch")
