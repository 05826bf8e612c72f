"""The Trainer's checkpoints: the same bits after a resume; half-written, damaged and foreign ones are refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest

from sparsify import Recipe, SparsityError, StateError
from sparsify.integrations.common.checkpoints import MARKER, check
from sparsify.integrations.transformers import SparsifyCallback, last_whole
from tests.processes import in_two
from tests.trainers import RECIPE, STEPS, Breaks, Stop, bert, cut, recipe, resume, same, trainer


@pytest.mark.parametrize("stop", [3, 6, 9])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, stop: int, accumulate: int) -> None:
    options: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": 3,
        "gradient_accumulation_steps": accumulate,
        "num_train_epochs": 2 * accumulate,
        "max_steps": STEPS,
    }
    whole = bert(dropout=0.1)
    trainer(whole, tmp_path / "whole", SparsifyCallback(recipe()), **options).train()
    with pytest.raises(KeyboardInterrupt):
        trainer(bert(0.1), tmp_path / "cut", SparsifyCallback(recipe()), Breaks(stop + 1), **options).train()
    resumed = bert(0.1)
    callback = SparsifyCallback(recipe())
    last = last_whole(tmp_path / "cut")
    assert last is not None
    assert last.name == f"checkpoint-{stop}"
    trainer(resumed, tmp_path / "cut", callback, **options).train(resume_from_checkpoint=str(last))
    same(whole, resumed)
    assert callback.density is not None


@pytest.mark.parametrize("criterion", ["movement", "soft-movement", "hard-concrete"])
def test_a_resumed_run_with_learned_masks_ends_with_the_same_bits(tmp_path: Path, criterion: str) -> None:
    learned = Recipe.parse(RECIPE.replace("type: prune,", f"type: prune, criterion: {criterion},"))
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3, "warmup_steps": 2}
    whole = bert(dropout=0.1)
    trainer(whole, tmp_path / "whole", SparsifyCallback(learned), **options).train()
    with pytest.raises(KeyboardInterrupt):
        trainer(bert(0.1), tmp_path / "cut", SparsifyCallback(learned), Breaks(7), **options).train()
    resumed = bert(0.1)
    last = str(last_whole(tmp_path / "cut"))
    trainer(resumed, tmp_path / "cut", SparsifyCallback(learned), **options).train(resume_from_checkpoint=last)
    same(whole, resumed)


def test_a_training_that_ends_early_can_go_on(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 100}
    with pytest.raises(SparsityError, match="training ended after 4 steps"):
        trainer(bert(), tmp_path, SparsifyCallback(recipe()), Stop(4), **options).train()
    callback = SparsifyCallback(recipe())
    trainer(bert(), tmp_path, callback, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    whole = bert()
    trainer(whole, tmp_path / "whole", SparsifyCallback(recipe())).train()
    same(callback.manager._model, whole)


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    last = cut(tmp_path)
    (last / MARKER).unlink()
    assert last_whole(tmp_path) == tmp_path / "checkpoint-3"
    with pytest.raises(StateError, match="not a whole checkpoint"):
        resume(tmp_path, last)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "sparsify.pt", "trainer_state.json"])
@pytest.mark.parametrize("how", ["cut short", "one bit", "gone"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, how: Literal["cut short", "one bit", "gone"]) -> None:
    last = cut(tmp_path)
    data = bytearray((last / name).read_bytes())
    if how == "gone":
        (last / name).unlink()
    else:
        data[len(data) // 2] ^= 1
        (last / name).write_bytes(data[: len(data) // 2] if how == "cut short" else data)
    with pytest.raises(StateError, match=rf"{name} is (missing|not as it was written)"):
        last_whole(tmp_path)
    check(tmp_path / "checkpoint-3")


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    last = cut(tmp_path)
    with pytest.raises(StateError, match=r'another recipe[\s\S]*-\s+"to": 0.75[\s\S]*\+\s+"to": 0.5'):
        resume(tmp_path, last, RECIPE.replace("0.75", "0.5"))


def test_a_checkpoint_elsewhere_has_to_be_named(tmp_path: Path) -> None:
    last = cut(tmp_path / "first")
    moved = shutil.copytree(last, tmp_path / "elsewhere" / last.name)
    with pytest.raises(StateError, match=r"there is no .*checkpoint-6; say where"):
        resume(tmp_path / "second", moved)
    assert resume(tmp_path / "third", moved, checkpoint=moved).density is not None


def test_a_checkpoint_made_without_us_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer(bert(), tmp_path, Breaks(4), save_strategy="steps", save_steps=3).train()
    with pytest.raises(StateError, match="is not a whole checkpoint"):
        resume(tmp_path, tmp_path / "checkpoint-3")


def test_structure_changes_before_a_checkpoint_is_loaded(tmp_path: Path) -> None:
    text = "version: 1\nmodifiers:\n  - {type: layer_drop, keep: [0]}\n  - {type: prune, sparsity: 0.5}\n"
    options = {"save_strategy": "steps", "save_steps": 3}
    whole = bert()
    trainer(whole, tmp_path / "whole", SparsifyCallback(Recipe.parse(text)), **options).train()
    assert len(whole.bert.encoder.layer) == 1
    with pytest.raises(KeyboardInterrupt):
        trainer(bert(), tmp_path / "cut", SparsifyCallback(Recipe.parse(text)), Breaks(7), **options).train()
    resumed = bert()
    made = trainer(resumed, tmp_path / "cut", SparsifyCallback(Recipe.parse(text)), **options)
    assert len(resumed.bert.encoder.layer) == 1, "dropped in Trainer(…), before anything is loaded"
    made.train(resume_from_checkpoint=str(last_whole(tmp_path / "cut")))
    same(whole, resumed)


@pytest.mark.slow
def test_two_processes_agree_and_resume_to_the_same_bits(tmp_path: Path) -> None:
    def hashes(*words: str) -> list[str]:
        return re.findall(r"rank \d of 2: (\w+)", in_two("ddp", *words).stdout)

    whole = hashes(str(tmp_path / "whole"))
    assert len(whole) == 2
    assert len(set(whole)) == 1
    assert hashes(str(tmp_path / "cut"), "stop") == []
    assert (tmp_path / "cut" / "checkpoint-32" / MARKER).is_file()
    assert hashes(str(tmp_path / "cut")) == whole
