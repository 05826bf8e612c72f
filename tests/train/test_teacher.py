"""`sparsify train --teacher`: a dense run first, then a recipe that distils from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sparsify import Recipe
from sparsify.errors import PlanError, StateError
from sparsify.modifiers.distill import Distill
from sparsify.train.run import run
from sparsify.train.teacher import check_reader
from tests import tiny
from tests.train.test_train import same, settings

pytestmark = pytest.mark.usefixtures("quiet_libraries")

RECIPE = """
version: 1
name: distilled
modifiers:
  - {type: distill, logits: {temperature: 2}, hidden: {loss: squarehead}, hardness: 0.5}
  - {type: prune, sparsity: 0.75, window: {begin: 10%, end: 60%, every: 2}}
"""


@pytest.fixture(scope="module")
def dense(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dense")
    run(settings(place), None, out)
    return out


def test_a_recipe_is_distilled_from_a_dense_run(place: Path, dense: Path, tmp_path: Path) -> None:
    report = run(settings(place, teacher=str(dense)), Recipe.parse(RECIPE), tmp_path / "run")
    found = report["modifiers"]["distill"]
    assert found["losses"] == report["training"]["steps"]
    assert found["distilled"]["hidden"] > 0
    assert found["teacher"]["type"] == "BertForSequenceClassification"
    assert "losses with distillation" in Distill.findings(found)[0]
    assert report["density"]["targeted"]["sparsity"] == pytest.approx(0.75, abs=0.01)


def test_a_run_that_was_stopped_ends_with_the_same_bits(
    place: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsify.train import keeper

    asked, text = settings(place, teacher=str(dense)), Recipe.parse(RECIPE)
    run(asked, text, tmp_path / "whole")
    before = keeper.Keeper.on_step_end

    def stop(self: Any, args: Any, state: Any, control: Any, **more: Any) -> Any:
        if state.global_step == 7:
            self._asked = True
            control.should_training_stop = control.should_save = True
        return before(self, args, state, control, **more)

    with monkeypatch.context() as patch:
        patch.setattr(keeper.Keeper, "on_step_end", stop)
        with pytest.raises(BaseException):  # noqa: B017, PT011  (stopped, or short of the recipe's end: both keep the checkpoint)
            run(asked, text, tmp_path / "cut")
    run(asked, text, tmp_path / "cut", resume=True)
    same(tmp_path / "whole", tmp_path / "cut")


def test_another_teacher_is_another_run(place: Path, dense: Path, tmp_path: Path) -> None:
    asked = settings(place, teacher=str(dense), epochs=1, keep_checkpoints=True)
    run(asked, Recipe.parse(RECIPE), tmp_path / "run")
    shutil.copytree(dense, tmp_path / "other")
    with pytest.raises(StateError, match="teacher: "):
        run(
            settings(place, teacher=str(tmp_path / "other"), epochs=1),
            Recipe.parse(RECIPE),
            tmp_path / "run",
            resume=True,
        )


def _labels(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "good", "1": "bad"}
    config["label2id"] = {"good": 0, "bad": 1}
    (folder / "config.json").write_text(json.dumps(config))


def _tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"film"', '"movie"'))


def _lower(folder: Path) -> None:
    """The same words, but capitals are read."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": {"type": "Lowercase"}}))


@pytest.mark.parametrize(
    ("teacher", "text", "message"),
    [
        (None, RECIPE, r"the recipe distils: give its teacher as --teacher NAME_OR_DIR"),
        ("dense", None, r"--teacher is for a --recipe that distils"),
        ("dense", tiny.RECIPE, r"--teacher .*: the recipe distils from none"),
        ("headless", RECIPE, r"--teacher .*: its labels are|fine-tune it on the task first"),
        ("labels", RECIPE, r"--teacher .*: its labels are good, bad; those of the data are 0, 1"),
        ("tokens", RECIPE, r"--teacher .*: its tokenizer differs from the model's: both must read the same tokens"),
        ("lower", RECIPE, r"--teacher .*: its tokenizer differs from the model's: both must read the same tokens"),
        ("nowhere", RECIPE, r"no such folder"),
    ],
)
def test_a_teacher_that_does_not_do(
    place: Path, dense: Path, tmp_path: Path, teacher: str | None, text: str | None, message: str
) -> None:
    given: Path | None = {None: None, "dense": dense, "headless": place / "model", "nowhere": tmp_path / "nowhere"}.get(
        teacher, tmp_path / "changed"
    )
    changes = {"labels": _labels, "tokens": _tokens, "lower": _lower}
    if teacher in changes:
        shutil.copytree(dense, tmp_path / "changed")
        changes[teacher](tmp_path / "changed")
    out = tmp_path / "run"
    with pytest.raises(PlanError, match=message):
        run(settings(place, teacher=None if given is None else str(given)), text and Recipe.parse(text), out)
    assert not (out / "run.json").exists(), "nothing is written"


def test_a_teacher_that_sees_other_pixels_is_refused(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    folder = tiny.image_model(tmp_path / "model")
    processor = AutoImageProcessor.from_pretrained(folder)
    check_reader(str(folder), processor, 1)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_normalize": True, "image_mean": [0.2]}))
    with pytest.raises(PlanError, match="its image processor makes other pixels of an image than the model's"):
        check_reader(str(folder), processor, 1)
