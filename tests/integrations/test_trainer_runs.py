"""One run in a folder: names of runs, the lock, several processes; and a run that goes on otherwise."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from sparsify import Recipe, StateError
from sparsify.errors import TrainingError
from sparsify.integrations.common.checkpoints import MARKER, checkpoints, marker
from sparsify.integrations.transformers import SparsifyCallback, last_whole
from tests.trainers import RECIPE, STEPS, Breaks, bert, cut, recipe, resume, trainer


def test_a_run_keeps_its_name(tmp_path: Path) -> None:
    last = cut(tmp_path)
    resume(tmp_path, last)
    names = {marker(folder).run for folder in checkpoints(tmp_path)}
    assert len(checkpoints(tmp_path)) == 4
    assert len(names) == 1
    cut(tmp_path / "other")
    assert marker(tmp_path / "other" / "checkpoint-3").run not in names


def test_a_checkpoint_of_another_run_is_never_taken_for_ours(tmp_path: Path) -> None:
    last = cut(tmp_path / "out")
    cut(tmp_path / "other").rename(tmp_path / "out" / "checkpoint-9")
    with pytest.raises(StateError, match=r"out holds checkpoints of another run \(checkpoint-3, checkpoint-6\)"):
        last_whole(tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StateError, match=r"out holds checkpoints of another run \(checkpoint-9\): remove them"):
        resume(tmp_path / "out", last)
    assert sorted(tmp_path.rglob("*")) == before
    shutil.rmtree(tmp_path / "out" / "checkpoint-9")
    assert resume(tmp_path / "out", last).density is not None


def test_a_new_run_does_not_begin_among_checkpoints_of_another(tmp_path: Path) -> None:
    """The limit would delete them, or a resume take them for its own."""
    cut(tmp_path)
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 1}
    with pytest.raises(
        StateError, match=r"another run \(checkpoint-3, checkpoint-6\): remove them, resume from them, or"
    ):
        trainer(bert(), tmp_path, SparsifyCallback(recipe()), **options).train()
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-6"]
    trainer(bert(), tmp_path, SparsifyCallback(recipe())).train()  # it writes no checkpoints


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path: Path) -> None:
    code = f"import time\nfrom sparsify.lock import FolderLock\nlock = FolderLock({str(tmp_path)!r}, '')\nprint(flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            with pytest.raises(
                TrainingError, match=rf"another run writes .*process {process.pid} .*another output_dir"
            ):
                trainer(bert(), tmp_path, SparsifyCallback(recipe())).train()
        finally:
            process.kill()
    assert trainer(bert(), tmp_path, SparsifyCallback(recipe())).train().global_step == STEPS


def test_a_process_that_may_not_save_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the second process of a training in parallel."""
    monkeypatch.setattr(TrainingArguments, "should_save", property(lambda self: False))
    monkeypatch.setattr(TrainingArguments, "process_index", property(lambda self: 1))
    callback = SparsifyCallback(recipe())
    trainer(bert(), tmp_path, callback, save_strategy="steps", save_steps=3).train()
    assert callback.density is not None
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not {name for name in written if "sparsify" in name or name in (MARKER, "report.json", "recipe.yaml")}


def test_a_checkpoint_that_cannot_be_finished_is_not_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsify.integrations.transformers import callback

    def full(*_: Any, **__: Any) -> None:
        raise StateError("no room")

    monkeypatch.setattr(callback.checkpoint, "save", full)
    with pytest.raises(StateError, match="no room"):
        trainer(bert(), tmp_path, SparsifyCallback(recipe()), save_strategy="steps", save_steps=3).train()
    assert last_whole(tmp_path) is None
    assert not list(tmp_path.rglob("*.part"))


PERCENT = RECIPE.replace("begin: 1, end: 8", "begin: 10%, end: 70%")


def resume_otherwise(folder: Path, text: str, epochs: int, **options: Any) -> SparsifyCallback:
    callback = SparsifyCallback(Recipe.parse(text), **options)
    made = trainer(bert(), folder, callback, save_strategy="steps", save_steps=3, num_train_epochs=epochs)
    made.train(resume_from_checkpoint=str(folder / "checkpoint-6"))
    return callback


@pytest.mark.parametrize(
    ("text", "epochs"), [(PERCENT, 2), (PERCENT.replace("0.75", "0.9"), 1), (PERCENT.replace("0.75", "0.9"), 2)]
)
def test_a_changed_recipe_or_length_wants_a_word(tmp_path: Path, text: str, epochs: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer(
            bert(), tmp_path, SparsifyCallback(Recipe.parse(PERCENT)), Breaks(7), save_strategy="steps", save_steps=3
        ).train()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(StateError, match="allow_changed_recipe=True"):
        resume_otherwise(tmp_path, text, epochs)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    callback = resume_otherwise(tmp_path, text, epochs, allow_changed_recipe=True)
    assert callback.manager.step == STEPS * epochs
    assert callback.manager.plan.modifiers[0].window.end == round(0.7 * STEPS * epochs), "percent of the new length"
    assert callback.density is not None
    assert abs(callback.density.targeted.sparsity - (0.9 if "0.9" in text else 0.75)) < 1e-3


def test_a_longer_training_picks_its_best_at_its_own_target(tmp_path: Path) -> None:
    """What was at the target of the shorter training is below it in the longer one."""
    scores = iter(range(0, -1000, -1))
    options: dict[str, Any] = {
        "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1,
        "load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True,
        "metrics": lambda _: {"score": float(next(scores))},
    }  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        trainer(bert(), tmp_path, SparsifyCallback(Recipe.parse(PERCENT)), Breaks(10), **options).train()
    callback = SparsifyCallback(Recipe.parse(PERCENT), allow_changed_recipe=True)
    made = trainer(bert(), tmp_path, callback, num_train_epochs=2, **options)
    made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert made.state.best_global_step == callback.manager.last_update
    assert callback.density is not None
    assert abs(callback.density.targeted.sparsity - 0.75) < 1e-3


def test_a_training_shorter_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    last = cut(tmp_path)
    callback = SparsifyCallback(recipe(), allow_changed_recipe=True)
    made = trainer(bert(), tmp_path, callback, num_train_epochs=0.25)
    with pytest.raises(StateError, match="checkpoint-6 is of step 6, but this training ends at 3"):
        made.train(resume_from_checkpoint=str(last))
