"""The stock Trainer with our callback."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from sparsify.integrations.transformers import SparsifyCallback, last_whole
from sparsify.integrations.transformers.checkpoints import MARKER, check
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from sparsify import Manager, PlanError, Recipe, SparsityError, StateError
from sparsify.modifiers.base import Modifier, ModifierPlan, PlanContext
from sparsify.targets import Targets
from tests.models import build

ROWS, BATCH, STEPS = 48, 4, 12
RECIPE = """
version: 1
modifiers:
  - {type: prune, sparsity: 0.75, window: {begin: 1, end: 8, every: 2}}
"""


class Rows(torch.utils.data.Dataset):
    """Random tokens and labels."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(2, 40, (ROWS, 6), generator=generator)
        self.labels = self.tokens[:, 0] % 2

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": self.tokens[row], "labels": self.labels[row]}


def bert(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    model = build("bert")
    torch.manual_seed(1)
    from transformers import BertForSequenceClassification

    config = model.config
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    return BertForSequenceClassification(config)


def trainer(model: nn.Module, folder: Path, *callbacks: TrainerCallback, metrics: Any = None, **more: Any) -> Trainer:
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": STEPS * BATCH / ROWS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-2,
        "max_grad_norm": 0.05,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "logging_steps": 2,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "report_to": "none",
    }
    made = Trainer(
        model=model,
        args=TrainingArguments(**{**options, **more}),
        train_dataset=Rows(),
        eval_dataset=Rows(),
        compute_metrics=metrics,
        callbacks=list(callbacks),
    )
    from transformers import PrinterCallback

    made.remove_callback(PrinterCallback)
    return made


def recipe() -> Recipe:
    return Recipe.parse(RECIPE)


def same(first: nn.Module, second: nn.Module) -> None:
    for (name, one), (_, other) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


class Stop(TrainerCallback):
    """Stops at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_training_stop = control.should_training_stop or state.global_step >= self.step
        return control


class Breaks(TrainerCallback):
    """Fails at a step, as a crash would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


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
    optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (STEPS - step) / STEPS)
    manager = Manager(recipe()).apply(theirs, optimizer, total_steps=STEPS)
    rows, theirs = Rows(), theirs.train()
    for step in range(STEPS):
        manager.on_step_begin()
        for micro in range(accumulate):
            start = (step * accumulate + micro) * BATCH % ROWS
            part = slice(start, start + BATCH)
            count = torch.tensor(BATCH * accumulate)  # the Trainer divides by the rows of the whole step
            theirs(input_ids=rows.tokens[part], labels=rows.labels[part], num_items_in_batch=count).loss.backward()
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
            masks = {name: mask for name, _, mask in callback.manager._masks}
            named = dict(model.named_parameters())
            assert all(bool((named[name][~mask] == 0).all()) for name, mask in masks.items())
            seen.append(callback.manager.sparsity)

    callback = SparsifyCallback(recipe())
    trainer(model, tmp_path, Look(), callback).train()
    assert len(seen) == STEPS
    assert seen == sorted(seen)
    assert abs(seen[-1] - 0.75) < 1e-6


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


def worse_and_worse() -> Callable[[Any], dict[str, float]]:
    """Return metrics that are best at the first evaluation."""
    calls = iter(range(1000))
    return lambda prediction: {"accuracy": 1.0 - 0.01 * next(calls)}


BEST: dict[str, Any] = {
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy",
    "greater_is_better": True,
}


def test_the_best_checkpoint_is_never_below_the_target(tmp_path: Path) -> None:
    callback = SparsifyCallback(recipe())
    made = trainer(bert(), tmp_path, callback, metrics=worse_and_worse(), **BEST)
    made.train()
    assert made.state.best_global_step == 8
    assert callback.density is not None
    assert abs(callback.density.targeted.sparsity - 0.75) < 1e-6


def test_unless_it_is_told_to_pick_it(tmp_path: Path) -> None:
    model = bert()
    callback = SparsifyCallback(recipe(), best_below_target=True)
    made = trainer(model, tmp_path, callback, metrics=worse_and_worse(), **{**BEST, "eval_steps": 4, "save_steps": 4})
    made.train()
    assert made.state.best_global_step == 4
    assert callback.density is not None
    found = callback.density.targeted.sparsity
    assert 0 < found < 0.75
    zeros = sum(int((weight.tensor == 0).sum()) for plan in callback.manager.plan.modifiers for weight in plan.weights)
    assert zeros == callback.density.targeted.elements - callback.density.targeted.nonzeros


@pytest.mark.parametrize("ours_first", [True, False])
def test_early_stopping_waits_for_the_target(tmp_path: Path, ours_first: bool) -> None:
    callbacks = [SparsifyCallback(recipe()), EarlyStoppingCallback(early_stopping_patience=1)]
    made = trainer(
        bert(),
        tmp_path,
        *(callbacks if ours_first else callbacks[::-1]),
        metrics=worse_and_worse(),
        **{**BEST, "eval_steps": 1, "save_steps": 1},
    )
    made.train()
    assert made.state.best_global_step == 8
    assert made.state.global_step == 9


def test_a_resumed_run_forgets_a_best_below_the_target(tmp_path: Path) -> None:
    options = {**BEST, "eval_steps": 1, "save_steps": 1}
    metrics = worse_and_worse()
    with pytest.raises(KeyboardInterrupt):
        trainer(bert(), tmp_path, SparsifyCallback(recipe()), Breaks(5), metrics=metrics, **options).train()
    made = trainer(bert(), tmp_path, SparsifyCallback(recipe()), metrics=metrics, **options)
    made.train(resume_from_checkpoint=str(last_whole(tmp_path)))
    assert made.state.best_global_step == 8


def test_loggers_see_sparsity_and_target(tmp_path: Path) -> None:
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


def test_a_training_that_ends_early_can_go_on(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 100}
    with pytest.raises(SparsityError, match="training ended after 4 steps"):
        trainer(bert(), tmp_path, SparsifyCallback(recipe()), Stop(4), **options).train()
    callback = SparsifyCallback(recipe())
    trainer(bert(), tmp_path, callback, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    whole = bert()
    trainer(whole, tmp_path / "whole", SparsifyCallback(recipe())).train()
    same(callback.manager._model, whole)


def cut(folder: Path) -> Path:
    """Return a checkpoint of step 6."""
    with pytest.raises(KeyboardInterrupt):
        trainer(bert(), folder, SparsifyCallback(recipe()), Breaks(7), save_strategy="steps", save_steps=3).train()
    return folder / "checkpoint-6"


def resume(folder: Path, source: Path, text: str = RECIPE, **options: Any) -> SparsifyCallback:
    callback = SparsifyCallback(Recipe.parse(text), **options)
    trainer(bert(), folder, callback, save_strategy="steps", save_steps=3).train(resume_from_checkpoint=str(source))
    return callback


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


def test_a_second_training_begins_anew(tmp_path: Path) -> None:
    callback = SparsifyCallback(recipe())
    made = trainer(bert(), tmp_path, callback)
    made.train()
    first = callback.manager
    made.train()
    assert callback.manager is not first
    assert callback.density is not None
    assert made.args.max_grad_norm == 0.05


def test_clipping_is_given_back_even_after_a_training_that_broke_off(tmp_path: Path) -> None:
    callback, breaks = SparsifyCallback(recipe()), Breaks(4)
    made = trainer(bert(), tmp_path, callback, breaks)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    assert made.args.max_grad_norm == 0
    made.remove_callback(breaks)
    made.train()
    assert made.args.max_grad_norm == 0.05
    made.args.max_grad_norm = 0.0
    made.train()
    assert made.args.max_grad_norm == 0


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


def test_structure_changes_before_a_checkpoint_is_loaded(tmp_path: Path) -> None:
    class KeepLayers(Modifier):
        """Drops layers; only here, to see that structure changes before a checkpoint is loaded."""

        type: Literal["test_keep_layers"] = "test_keep_layers"
        keep: int = 1

        def restructure(self, model: nn.Module) -> None:
            model.bert.encoder.layer = model.bert.encoder.layer[: self.keep]
            model.config.num_hidden_layers = self.keep

        def plan(self, context: PlanContext) -> ModifierPlan | None:
            from sparsify.modifiers.prune import Prune

            prune = Prune.model_validate({"sparsity": 0.5, "targets": ["*"]})
            assert Targets(context.model).select(["*"])
            return prune.plan(context)

    text = "version: 1\nmodifiers:\n  - {type: test_keep_layers, keep: 1}\n"
    options = {"save_strategy": "steps", "save_steps": 3}
    try:
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
    finally:
        Modifier._members.pop("test_keep_layers", None)


@pytest.mark.slow
def test_two_processes_agree_and_resume_to_the_same_bits(tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).parent / "torchrun"),
        "--nproc_per_node",
        "2",
        str(Path(__file__).parent / "ddp.py"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def hashes(*words: str) -> list[str]:
        done = subprocess.run([*command, *words], capture_output=True, text=True, env=environment)
        return re.findall(r"rank \d of 2: (\w+)", done.stdout)

    whole = hashes(str(tmp_path / "whole"))
    assert len(whole) == 2
    assert len(set(whole)) == 1
    assert hashes(str(tmp_path / "cut"), "stop") == []
    assert (tmp_path / "cut" / "checkpoint-32" / MARKER).is_file()
    assert hashes(str(tmp_path / "cut")) == whole


def test_the_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["example"])
    runpy.run_module("sparsify.integrations.transformers.example", run_name="__main__")
    text = capsys.readouterr().out
    accuracy = float(text.rpartition("accuracy ")[2].partition("%")[0])
    assert accuracy > 90
    assert "80.0% of the targeted weights zero" in text
