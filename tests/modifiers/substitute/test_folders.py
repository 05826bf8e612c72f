"""What is saved: stock transformers loads ReLU with the same logits, and fails loudly over norms; sparsify loads both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsify.pretrained import load, skeleton
from sparsify.substitutes import NoNorm
from tests.models import MODELS
from tests.modifiers.substitute.training import END, Training

READER = """
import json, sys, torch, transformers
sys.modules["sparsify"] = None  # importing it fails
for name, (kind, folder) in json.load(open(sys.argv[1])).items():
    try:
        model = getattr(transformers, kind).from_pretrained(folder).eval()
    except Exception as error:
        print(json.dumps([name, f"{type(error).__name__}: {error}"[:300]]))
        continue
    with torch.no_grad():
        logits = next(iter(model(**torch.load(folder + "/inputs.pt")).values()))
    torch.save(logits, folder + "/logits.pt")
    print(json.dumps([name, "loaded"]))
"""
RELU = ("bert", "roberta", "distilbert", "vit", "gpt2", "llama", "t5-gated", "bart", "albert", "modernbert")
NONORM = ("bert", "llama", "t5", "vit")


def mobilebert() -> Training:
    """Return a training of a MobileBERT whose norms are LayerNorm."""
    import transformers

    from sparsify import Manager
    from tests.modifiers.substitute.training import STEPS, recipe

    run = Training("mobilebert")
    config = {**MODELS["mobilebert"].config, "normalization_type": "layer_norm", "hidden_act": "gelu"}
    torch.manual_seed(0)
    run.model = transformers.MobileBertForSequenceClassification(transformers.MobileBertConfig(**config)).eval()
    run.optimizer = torch.optim.AdamW(run.model.parameters(), lr=1e-3)
    run.manager = Manager(recipe()).apply(run.model, run.optimizer, total_steps=STEPS)
    return run


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Path, torch.Tensor]]:
    """Return what a process without sparsify said of each folder, the folder, and the logits that it should have."""
    top = tmp_path_factory.mktemp("folders")
    runs = {f"{name} relu": Training(name, "activations: relu").train() for name in RELU}
    runs |= {f"{name} nonorm": Training(name).train() for name in NONORM}
    runs["mobilebert"] = mobilebert().train()
    runs["bert between"] = Training("bert", "activations: relu").train(END - 1)
    runs["t5-gated between"] = Training("t5-gated", "activations: relu").train(END - 1)
    jobs = {}
    for name, run in runs.items():
        folder = top / name.replace(" ", "-")
        run.model.save_pretrained(folder)
        torch.save(run.inputs, folder / "inputs.pt")
        jobs[name] = (type(run.model).__name__, str(folder))
    (top / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, "-c", READER, str(top / "jobs.json")],
        capture_output=True, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    said: dict[str, Any] = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    return {name: (said[name], Path(jobs[name][1]), run.output()) for name, run in runs.items()}


@pytest.mark.parametrize("name", [*(f"{name} relu" for name in RELU), "mobilebert"])
def test_stock_loading_gives_the_same_logits(name: str, read: dict[str, Any]) -> None:
    said, folder, logits = read[name]
    assert said == "loaded"
    assert torch.equal(torch.load(folder / "logits.pt"), logits)


@pytest.mark.parametrize("name", NONORM)
def test_stock_loading_of_norms_fails(name: str, read: dict[str, Any]) -> None:
    said, folder, logits = read[f"{name} nonorm"]
    assert "mismatch" in said
    mine = load(folder)
    assert any(isinstance(module, NoNorm) for module in mine.modules())
    assert type(mine).__name__ == MODELS[name].kind
    with torch.no_grad():
        assert torch.equal(next(iter(mine(**torch.load(folder / "inputs.pt")).values())), logits)
    assert any(isinstance(module, NoNorm) for module in skeleton(str(folder)).modules())


@pytest.mark.parametrize("name", ["bert between", "t5-gated between"])
def test_within_the_window_nobody_loads_it(name: str, read: dict[str, Any]) -> None:
    said, _, _ = read[name]
    assert said.startswith("KeyError"), said


def test_train_loads_it_too(read: dict[str, Any]) -> None:
    from sparsify.train import model
    from sparsify.train.labels import Labels

    _, folder, logits = read["bert nonorm"]
    config = model.config_for(str(folder), "text-classification")
    names = tuple(config.id2label[i] for i in sorted(config.id2label))
    found, notes = model.load(str(folder), "text-classification", config, Labels(names))
    assert not notes
    with torch.no_grad():
        assert torch.equal(next(iter(found.eval()(**torch.load(folder / "inputs.pt")).values())), logits)
