"""Lightning: what is resumed ends with the same bits, wherever it was stopped."""

from __future__ import annotations

import inspect
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from sparsify import SparsityError, StateError
from sparsify.integrations.lightning import SparsifyCallback
from tests.killing import killed
from tests.lightnings import CRITERIA, QUIET, RECIPE, Batches, Distilled, Module, callback, same, trainer
from tests.modifiers.distill.students import batch, bert
from tests.modifiers.test_stages import RECIPE as STAGES

pytestmark = QUIET
STEPS = 12
NEW = "weights_only" in inspect.signature(pl.Trainer.fit).parameters


def keep_all(folder: Path) -> ModelCheckpoint:
    """Keep a checkpoint of every step."""
    return ModelCheckpoint(
        folder, filename="{step}", save_top_k=-1, every_n_train_steps=1, save_on_train_epoch_end=False
    )


def stages(folder: Path, seed: int, *more: Any, resume: Path | None = None, own: bool = False) -> Distilled:
    """Three stages: layers dropped, distilled, learned masks; another teacher; a lock."""
    module = Distilled(bert(layers=4, seed=seed, hidden_dropout_prob=0.1).train(), own)
    ours = callback(STAGES, bindings={"teacher": bert(layers=4, seed=9, hidden_size=24)})
    torch.manual_seed(seed)
    made = trainer(folder, ours, *more, enable_checkpointing=bool(more))
    made.fit(module, Batches(STEPS, batch), ckpt_path=None if resume is None else str(resume))
    assert ours.density is not None
    assert len(module.net.bert.encoder.layer) == 3
    return module


@pytest.mark.parametrize("own", [False, True])
def test_a_resume_in_every_stage_ends_with_the_same_bits(tmp_path: Path, own: bool) -> None:
    whole = stages(tmp_path, 0, keep_all(tmp_path / "kept"), own=own)
    for stop in (2, 6, 10) if own else range(1, STEPS):
        other = stages(tmp_path / str(stop), 5, resume=tmp_path / "kept" / f"step={stop}.ckpt", own=own)
        same(whole, other)
        assert other.losses == whole.losses[stop:]


@pytest.mark.parametrize("kind", CRITERIA)
def test_accumulation_and_an_epoch_in_the_middle(tmp_path: Path, kind: str) -> None:
    def training(folder: Path, seed: int, *more: Any, resume: str | None = None) -> Module:
        torch.manual_seed(seed)
        module = Module()
        options = {
            "accumulate_grad_batches": 2,
            "gradient_clip_val": 0.1,
            "max_epochs": 3,
            "enable_checkpointing": True,
        }
        trainer(folder, callback(CRITERIA[kind]), *more, **options).fit(
            module, Batches(7), ckpt_path=resume, **({"weights_only": True} if resume and NEW else {})
        )
        return module

    whole = training(tmp_path, 0, keep_all(tmp_path / "kept"))
    for stop in (3, 4, 7):  # in an epoch, at its end (a step of one batch), in the next
        again = training(
            tmp_path / f"{stop}",
            1,
            keep_all(tmp_path / f"again {stop}"),
            resume=str(tmp_path / "kept" / f"step={stop}.ckpt"),
        )
        same(whole, again)


def unfinished(folder: Path) -> Path:
    """A training that ends before the recipe does."""
    with pytest.raises(SparsityError, match="training ended after 4 steps"):
        trainer(
            folder, callback(total_steps=STEPS), keep_all(folder / "kept"), max_steps=4, enable_checkpointing=True
        ).fit(Module(), Batches(STEPS))
    return folder / "kept" / "unfinished.ckpt"


def test_a_training_that_ends_early_can_go_on(tmp_path: Path) -> None:
    last = unfinished(tmp_path)
    whole, other = Module(), Module()
    trainer(tmp_path / "whole", callback()).fit(whole, Batches(STEPS))
    trainer(tmp_path, callback()).fit(other, Batches(STEPS), ckpt_path=str(last))
    same(whole, other)


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        (lambda: callback(RECIPE.replace("0.75", "0.5")), r"another recipe[\s\S]*0\.75"),
        (lambda: callback(total_steps=20), "another length|20"),
    ],
)
def test_another_recipe_or_length_is_refused_or_meant(tmp_path: Path, ours: Any, message: str) -> None:
    last = unfinished(tmp_path)
    with pytest.raises(StateError, match=message):
        trainer(tmp_path, ours()).fit(Module(), Batches(STEPS), ckpt_path=str(last))
    meant: SparsifyCallback = ours()
    meant.allow_changed_recipe = True
    with pytest.warns() if "0.75" in message else _nothing():
        trainer(tmp_path, meant).fit(Module(), Batches(STEPS), ckpt_path=str(last))
    assert meant.density is not None


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


def test_a_checkpoint_made_without_us_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, keep_all(tmp_path / "kept"), enable_checkpointing=True).fit(Module(), Batches(4))
    with pytest.raises(StateError, match="made without a recipe"):
        trainer(tmp_path, callback()).fit(Module(), Batches(STEPS), ckpt_path=str(tmp_path / "kept" / "step=2.ckpt"))


def test_a_resume_goes_by_the_layers_that_were_chosen(tmp_path: Path) -> None:
    text = "version: 1\nmodifiers:\n  - {type: layer_drop, keep: {count: 2, rule: block-influence}}\n  - {type: prune, sparsity: 0.5}\n"
    data = {"calibration": [{"input_ids": batch(7)["input_ids"]}]}

    def training(folder: Path, seed: int, ours: SparsifyCallback, resume: Path | None = None) -> Distilled:
        module = Distilled(bert(layers=4, seed=seed))
        trainer(folder, ours, keep_all(folder), enable_checkpointing=True).fit(
            module, Batches(4, batch), ckpt_path=None if resume is None else str(resume)
        )
        return module

    whole = training(tmp_path / "a", 0, callback(text, bindings=data))
    last = tmp_path / "a" / "step=2.ckpt"
    same(whole, training(tmp_path / "b", 3, callback(text, checkpoint=last), last))  # nothing to measure with
    torch.save({"callbacks": {}}, tmp_path / "other.ckpt")
    with pytest.raises(StateError, match="made without a recipe"):
        training(tmp_path / "c", 3, callback(text, checkpoint=tmp_path / "other.ckpt"), last)


# ---------------------------------------------------------------------- kill -9


def newest(folder: Path) -> Path | None:
    found = sorted((folder / "kept").glob("step=*.ckpt"), key=lambda path: int(path.stem.removeprefix("step=")))
    return found[-1] if found else None


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """With a teacher and dropped layers; killed while a checkpoint was written."""
    killed("lightning", tmp_path, "checkpoint", 7)
    last = newest(tmp_path)
    assert last is not None
    assert last.stem == "step=6"
    whole = stages(tmp_path / "whole", 0)
    same(whole, stages(tmp_path, 5, resume=last))
    assert (tmp_path / "report.json").is_file()


@pytest.mark.slow
def test_a_dozen_kills_at_random_moments(tmp_path: Path) -> None:
    chance, whole = random.Random(0), stages(tmp_path / "whole", 0)
    for trial in range(4):
        folder = tmp_path / str(trial)
        for _ in range(3):
            moment = chance.choice(["checkpoint", "step", "time"])
            killed("lightning", folder, moment, chance.uniform(0.05, 1.5) if moment == "time" else chance.randint(1, 5))
        last = newest(folder)  # none, where it was killed before the first: it begins anew
        same(whole, stages(folder, 5 if last else 0, resume=last))
