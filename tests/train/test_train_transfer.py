"""Sparse transfer: a model that was pruned on one task learns another, and every zero of it stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsify import PlanError, Recipe
from sparsify.train.run import run
from tests.train.test_train import recipe, settings, weights

pytestmark = pytest.mark.usefixtures("quiet_libraries")


def other_task(place: Path, folder: Path) -> dict[str, str]:
    """Write the same sentences with three labels, by their length; return the files as settings."""
    files = {}
    for split in ("train", "eval"):
        sentences = [line.split("\t")[1] for line in (place / f"{split}.tsv").read_text().splitlines()]
        rows = [
            f"{('short', 'long', 'longer')[(n > 5) + (n > 8)]}\t{text}\n"
            for text in sentences
            for n in [len(text.split())]
        ]
        (folder / f"{split}.tsv").write_text("".join(rows))
        files[split] = str(folder / f"{split}.tsv")
    return files


def test_zeros_of_one_task_are_zeros_of_the_next(place: Path, tmp_path: Path) -> None:
    run(settings(place), recipe(0.75), tmp_path / "sparse")
    files = other_task(place, tmp_path)
    run(settings(place, **files), None, tmp_path / "teacher")
    asked = settings(
        place, **files, model=str(tmp_path / "sparse"), teacher=str(tmp_path / "teacher"), lr=1e-2, epochs=3
    )
    report = run(asked, Recipe.load("sparse-transfer"), tmp_path / "out")
    before, after = weights(tmp_path / "sparse"), weights(tmp_path / "out")
    assert len(report["training"]["data"]["labels"]) == 3
    assert report["density"]["targeted"]["sparsity"] == 0.75
    moved = 0
    for name, old in before.items():
        if "encoder" in name and old.dim() == 2:
            assert torch.equal(old == 0, after[name] == 0), name
            moved += int((old != after[name]).sum())
    assert moved > 0, "what is not zero has been trained"


def test_a_body_that_does_not_fit_its_config_is_refused(place: Path, tmp_path: Path) -> None:
    """Only a head may be new: random weights in the body would train, and look like a poor recipe."""
    shutil.copytree(place / "model", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("LayerNorm.weight"))
    tensors[name] = tensors[name][None]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(PlanError, match=rf"{name} has another shape in the file of weights"):
        run(settings(place, model=str(tmp_path / "model")), None, tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()
