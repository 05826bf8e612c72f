"""The stock Trainer with our callback: the step, the loggers, the clock."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from sparsify import Manager, PlanError, Recipe
from sparsify.integrations.transformers import SparsifyCallback
from tests.majors import OLD
from tests.trainers import BATCH, RECIPE, ROWS, STEPS, Rows, bert, recipe, same, trainer


@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_trains_as_a_loop_with_the_hooks_does(tmp_path: Path, accumulate: int) -> None:
    """The same weights bit by bit: masks, clock, and clipping over masked gradients."""
    ours, theirs = bert(), bert()
    callback = SparsifyCallback(recipe())
    made = trainer(ours, tmp_path, callback, gradient_accumulation_steps=accumulate, num_train_epochs=accumulate)
    made.train()
    assert type(made.optimizer.optimizer) is torch.optim.AdamW
    assert made.args.max_grad_norm == 0.05

    decayed = made.get_decay_parameter_names(theirs)
    named = dict(theirs.named_parameters())
    groups = [{"params": [p for n, p in named.items() if (n in decayed) is those]} for those in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.0, fused=made.args.optim.endswith("fused"))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (STEPS - step) / STEPS)
    manager = Manager(recipe()).apply(theirs, optimizer, total_steps=STEPS)
    rows, theirs = Rows(), theirs.train()
    for step in range(STEPS):
        manager.on_step_begin()
        for micro in range(accumulate):
            start = (step * accumulate + micro) * BATCH % ROWS
            part = slice(start, start + BATCH)
            batch = {"input_ids": rows.tokens[part], "labels": rows.labels[part]}
            if OLD:  # the Trainer divides by the batches of the step
                (theirs(**batch).loss / accumulate).backward()
            else:  # by the rows of the whole step
                theirs(**batch, num_items_in_batch=torch.tensor(BATCH * accumulate)).loss.backward()
        manager.on_before_optimizer_step()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 0.05)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        manager.on_step_end()
    same(ours, theirs)
    assert callback.density == manager.finalize()
    assert abs(callback.density.targeted.sparsity - 0.75) < 1e-9


def test_the_model_is_sparse_at_every_event_outside_the_step(tmp_path: Path) -> None:
    model = bert()
    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            masks = {masked.weight.parameter_name: masked.mask for masked in callback.manager._masks}
            named = dict(model.named_parameters())
            assert all(bool((named[name][~mask] == 0).all()) for name, mask in masks.items())
            seen.append(callback.manager.sparsity)

    callback = SparsifyCallback(recipe())
    trainer(model, tmp_path, Look(), callback).train()
    assert len(seen) == STEPS
    assert seen == sorted(seen)
    assert abs(seen[-1] - 0.75) < 1e-6


def test_loggers_see_sparsity_and_target(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows: list[dict[str, float]] = []

    class Csv(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            rows.append(dict(logs))

    made = trainer(
        bert(), tmp_path, Csv(), SparsifyCallback(recipe()), report_to=["tensorboard"], logging_dir=str(tmp_path / "logs")
    ) if "logging_dir" in TrainingArguments.__dataclass_fields__ else trainer(
        bert(), tmp_path, Csv(), SparsifyCallback(recipe()), report_to=["tensorboard"]
    )  # fmt: skip
    made.train()
    files = list(tmp_path.rglob("events.out.tfevents.*"))
    read = EventAccumulator(str(files[0].parent))
    read.Reload()
    assert {"train/loss", "train/sparsity", "train/target_sparsity"} <= set(read.Tags()["scalars"])
    assert abs(read.Scalars("train/sparsity")[-1].value - 0.75) < 1e-3
    assert rows[-2]["target_sparsity"] == 0.75
    assert "loss" in rows[-2]
    assert made.state.log_history[-2]["sparsity"] == pytest.approx(0.75, abs=1e-3)


def test_a_second_training_begins_anew(tmp_path: Path) -> None:
    callback = SparsifyCallback(recipe())
    made = trainer(bert(), tmp_path, callback)
    made.train()
    first = callback.manager
    made.train()
    assert callback.manager is not first
    assert callback.density is not None


def test_a_callback_can_go_on_to_another_trainer(tmp_path: Path) -> None:
    callback, first, second = SparsifyCallback(recipe()), bert(), bert()
    trainer(first, tmp_path, callback).train()
    trainer(second, tmp_path, callback).train()
    same(first, second)
    trainer(second, tmp_path, callback).train()
    assert callback.density is not None


def test_percentages_and_epochs_are_known(tmp_path: Path) -> None:
    text = RECIPE.replace("{begin: 1, end: 8, every: 2}", "{begin: 10%, end: 2 epochs, every: 1}")
    callback = SparsifyCallback(Recipe.parse(text))
    trainer(bert(), tmp_path, callback, num_train_epochs=3).train()
    window = callback.manager.plan.modifiers[0].window
    assert (window.begin, window.end) == (4, 24)


def test_a_recipe_that_does_not_fit_is_refused_before_the_first_step(tmp_path: Path) -> None:
    made = trainer(bert(), tmp_path, SparsifyCallback(Recipe.parse(RECIPE.replace("end: 8", "end: 80"))))
    with pytest.raises(PlanError, match="80"):
        made.train()
    assert made.state.global_step == 0


def test_fsdp_is_refused(tmp_path: Path) -> None:
    callback = SparsifyCallback(recipe())
    made = trainer(bert(), tmp_path, callback)
    made.args.fsdp = "full_shard"
    with pytest.raises(PlanError, match="FSDP"):
        callback.on_train_begin(made.args, made.state, made.control, model=made.model)


def test_the_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["example"])
    runpy.run_module("sparsify.integrations.transformers.example", run_name="__main__")
    text = capsys.readouterr().out
    accuracy = float(text.rpartition("accuracy ")[2].partition("%")[0])
    assert accuracy > 90
    assert "80.0% of the targeted weights zero" in text
