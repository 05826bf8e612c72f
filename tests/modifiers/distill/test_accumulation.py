"""`distill` over micro-batches, gradient scales and time; projections that it learns beside the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsify import Manager
from tests.modifiers.distill.by_hand import gradients, kd, reference, the_same
from tests.modifiers.distill.students import apply, batch, bert, gpt, recipe, step


def test_micro_batches_weigh_as_in_the_task_loss() -> None:
    """With num_items_in_batch (as the Trainer gives it) two micro-batches are one batch, whatever their lengths."""
    student, teacher, whole = gpt(), gpt(1), batch()
    labels = whole["labels"] = whole["input_ids"].masked_fill(whole["attention_mask"] == 0, -100)
    valid = labels[:, 1:] != -100

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**whole), teacher(**whole)
        return outputs.loss + kd(outputs.logits[:, :-1][valid], taught.logits[:, :-1][valid].detach(), 1.0)

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    manager.on_step_begin()
    optimizer.zero_grad()
    for part in (slice(0, 1), slice(1, 4)):
        inputs = {name: value[part] for name, value in whole.items()} | {"num_items_in_batch": valid.sum()}
        outputs = student(**inputs)
        manager.on_loss(outputs.loss, outputs).backward()
    manager.on_before_optimizer_step()
    the_same(gradients(student), wanted)
    optimizer.step()
    manager.on_step_end()


def test_a_model_that_ignores_the_number_of_items_has_a_mean() -> None:
    """BERT's own loss is a mean whatever it is told, so that what is added to it is one, too."""
    student, teacher, inputs = bert(), bert(seed=1), batch()
    wanted = float(step(*_pair(student, teacher), inputs))
    student = bert()
    assert float(step(*_pair(student, teacher), inputs | {"num_items_in_batch": torch.tensor(40)})) == wanted


def _pair(student: Any, teacher: Any) -> tuple[Manager, Any, Any]:
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    return manager, student, optimizer


def test_a_mean_is_divided_by_the_loop() -> None:
    student, teacher, whole = bert(), bert(seed=1), batch()

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**whole), teacher(**whole)
        return outputs.loss + kd(outputs.logits, taught.logits.detach(), 1.0)

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    manager.on_step_begin()
    optimizer.zero_grad()
    for part in (slice(0, 2), slice(2, 4)):
        inputs = {name: value[part] for name, value in whole.items()}
        outputs = student(**inputs)
        (manager.on_loss(outputs.loss, outputs, inputs) / 2).backward()
    manager.on_before_optimizer_step()
    the_same(gradients(student), wanted)


def test_weights_and_windows_change_with_the_steps() -> None:
    student, teacher, inputs = bert(), bert(seed=1), batch()
    body = "logits: {weight: {from: 1, to: 0, curve: linear}}, begin: 1, end: 3"
    manager, optimizer = apply(student, body, teacher=teacher, lr=0.0)
    with torch.no_grad():
        outputs, taught = student(**inputs), teacher(**inputs)
    soft, task = float(kd(outputs.logits, taught.logits, 1.0)), float(outputs.loss)
    found = [float(step(manager, student, optimizer, inputs)) for _ in range(4)]
    assert found == pytest.approx([task, task + soft, task + soft / 2, task], rel=1e-5)


# ---------------------------------------------------------------------- projections


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_a_projection_is_learned_beside_the_model(scale: float) -> None:
    """Its gradient is unscaled like the others; it is in no optimizer of the user's, and no checkpoint."""
    student, teacher, inputs = bert(), bert(seed=1, hidden_size=24), batch()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    body = "hidden: {learning_rate: 1e-2}"
    manager = Manager(recipe(body)).apply(student, optimizer, total_steps=4, scaler=scaler, teacher=teacher)
    before = {
        name: each["matrices"] for name, each in manager.state_dict()["modifiers"]["distill"]["projections"].items()
    }
    values = []
    for _ in range(4):
        manager.on_step_begin()
        optimizer.zero_grad()
        outputs = student(**inputs)
        loss = manager.on_loss(outputs.loss, outputs, inputs)
        scaler.scale(loss).backward()
        manager.on_before_optimizer_step()
        scaler.step(optimizer)
        scaler.update()
        manager.on_step_end()
        values.append(float(loss.detach()))
    after = manager.state_dict()["modifiers"]["distill"]["projections"]["hidden"]
    assert values[-1] < values[0]
    for name, matrix in after["matrices"].items():
        assert matrix.shape == (24, 16)
        assert not torch.equal(matrix, before["hidden"][name])
        assert float(after["moments"][name]["exp_avg"].abs().max()) < 1.0, "the gradients were unscaled"
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in student.parameters()}
    assert not [name for name in student.state_dict() if "proj" in name]
