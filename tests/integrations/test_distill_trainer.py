"""Distillation in the stock Trainer: the loss of the model, whoever wraps it; what cannot be served is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from sparsify import HookError, Manager, PlanError, Recipe
from sparsify.integrations.transformers import SparsifyCallback
from tests.majors import IN_ORDER, OLD, in_order
from tests.modifiers.distill.students import bert
from tests.modifiers.test_stages import RECIPE as STAGES
from tests.modifiers.test_stages import STEPS

RECIPE = """
version: 1
modifiers:
  - {type: distill, logits: {temperature: 2}, hidden: {loss: squarehead}, hardness: 0.9}
  - {type: prune, criterion: movement, sparsity: 0.5}
"""
ROWS = 24


class Rows(torch.utils.data.Dataset):
    def __init__(self) -> None:
        made = torch.Generator().manual_seed(3)
        self.ids = torch.randint(2, 40, (ROWS, 6), generator=made)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.ids[index], "attention_mask": torch.ones(6, dtype=torch.long), "labels": index % 3}


def trainer(folder: Path, *callbacks: Any, kind: type[Trainer] = Trainer, model: Any = None, **more: Any) -> Trainer:
    options: dict[str, Any] = {
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.0,
        "num_train_epochs": 2,
        "optim": "sgd",
        "save_strategy": "no",
    }
    passed = {key: more.pop(key) for key in ("compute_loss_func", "eval_dataset") if key in more}
    args = TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **IN_ORDER,
        **{**options, **more},
    )
    return in_order(kind)(
        model if model is not None else bert(), args, train_dataset=Rows(), callbacks=list(callbacks), **passed
    )


def callback(text: str = RECIPE, **more: Any) -> SparsifyCallback:
    return SparsifyCallback(Recipe.parse(text), bindings={"teacher": bert(seed=1)}, **more)


def by_hand(steps: int = 6) -> torch.nn.Module:
    """The same training in a loop of one's own. BERT's loss is a mean that the Trainer divides before 5."""
    model, rows = bert(), Rows()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    manager = Manager(Recipe.parse(RECIPE)).apply(
        model, optimizer, total_steps=steps, steps_per_epoch=3, teacher=bert(seed=1)
    )
    model.train()
    for step in range(steps):
        manager.on_step_begin()
        optimizer.zero_grad()
        for part in range(2):
            first = (8 * step + 4 * part) % ROWS
            items = [rows[first + index] for index in range(4)]
            batch = {name: torch.stack([torch.as_tensor(item[name]) for item in items]) for name in items[0]}
            outputs = model(**batch)
            loss = manager.on_loss(outputs.loss, outputs, batch)
            (loss / 2 if OLD else loss).backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    manager.finalize()
    return model


def the_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4, msg=name)


def test_the_trainer_trains_as_a_loop_does(tmp_path: Path) -> None:
    made = trainer(tmp_path, callback())
    made.train()
    the_same(made.model, by_hand())
    assert not made.model._forward_hooks, "the hooks leave with the training"


def test_a_compiled_model_is_distilled_too(tmp_path: Path) -> None:
    made = trainer(tmp_path, callback(), torch_compile=True, torch_compile_backend="eager")
    made.train()
    the_same(made.model, by_hand())


class FromLogits(Trainer):
    """Makes its loss itself."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        outputs = model(**inputs)
        loss = torch.nn.functional.cross_entropy(outputs.logits, inputs["labels"])
        return (loss, outputs) if return_outputs else loss


class FromOutputs(Trainer):
    """Adds to the model's loss, as many subclasses do."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        outputs = model(**inputs)
        loss = outputs.loss + 0.0 * outputs.logits.sum()
        return (loss, outputs) if return_outputs else loss


def test_a_subclass_that_uses_the_models_loss(tmp_path: Path) -> None:
    made = trainer(tmp_path, callback(), kind=FromOutputs)
    made.train()
    the_same(made.model, by_hand())


def test_a_subclass_that_does_not_is_stopped_before_the_first_step(tmp_path: Path) -> None:
    made = trainer(tmp_path, callback(), kind=FromLogits)
    before = [parameter.clone() for parameter in made.model.parameters()]
    with pytest.raises(HookError, match=r"backward\(\) was not called on the loss that on_loss\(\) returned"):
        made.train()
    assert all(torch.equal(one, other) for one, other in zip(before, made.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"label_smoothing_factor": 0.1}, "with label_smoothing_factor the Trainer makes its loss itself"),
        (
            {"compute_loss_func": lambda *_, **__: None},
            "with compute_loss_func the loss does not come from the model's",
        ),
    ],
)
def test_a_loss_of_ones_own_is_refused_before_training(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    made = trainer(tmp_path, callback(), **more)
    with pytest.raises(PlanError, match=message):
        made.train()
    without = Recipe.parse("version: 1\nmodifiers:\n  - {type: prune, sparsity: 0.5}\n")
    if "label_smoothing_factor" in more:
        trainer(tmp_path / "pruned", SparsifyCallback(without), **more).train()


@pytest.mark.parametrize("own", [False, True])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path, own: bool) -> None:
    text = RECIPE.replace("type: distill,", "type: distill, teacher: self,") if own else RECIPE
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}

    def training(folder: Path) -> tuple[Trainer, SparsifyCallback]:
        bindings = {} if own else {"teacher": bert(seed=1)}
        made = SparsifyCallback(Recipe.parse(text), bindings=bindings)
        return trainer(folder, made, **options), made

    whole, _ = training(tmp_path / "run")
    whole.train()
    for path in (tmp_path / "run").glob("checkpoint-*"):
        assert not [name for name in _saved(path) if "teacher" in name or "projection" in name]
    again, _ = training(tmp_path / "run")
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_resume_in_every_stage_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Layers dropped, distilled, learned masks; another teacher of other widths; a lock. With accumulation."""
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 4, "optim": "adamw_torch"}

    def training(folder: Path, seed: int) -> Trainer:
        teacher = bert(layers=4, seed=9, hidden_size=24)
        made = SparsifyCallback(Recipe.parse(STAGES), bindings={"teacher": teacher})
        return trainer(folder, made, model=bert(layers=4, seed=seed), **options)

    whole = training(tmp_path / "run", 0)
    whole.train()
    assert whole.state.max_steps == STEPS
    assert len(whole.model.bert.encoder.layer) == 3
    for stop in (1, 4, 5, 9, 10):
        again = training(tmp_path / "run", 5)
        again.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{stop}"))
        for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
            assert torch.equal(one, other)


def _saved(folder: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(str(folder / "model.safetensors"), "pt") as file:
        return list(file.keys())
