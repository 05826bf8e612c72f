"""The teacher of `distill`: it is left alone, may be the model as it was, and must fit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sparsify import Plan, PlanError
from tests.modifiers.distill.by_hand import kd, reference
from tests.modifiers.distill.students import apply, batch, bert, recipe, step


def test_the_teacher_is_left_alone() -> None:
    student, teacher = bert(hidden_dropout_prob=0.5), bert(seed=1, hidden_dropout_prob=0.5)
    teacher.train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    manager, optimizer = apply(student, "logits: {}, hidden: {}", teacher=teacher)
    for _ in range(3):
        teacher.train()  # a loop that calls train() on everything
        step(manager, student, optimizer, batch())
        assert not teacher.training, "in evaluation mode: no dropout"
    assert all(p.grad is None for p in teacher.parameters())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])


def test_nobody_asks_the_teacher_in_evaluation() -> None:
    student, teacher = bert(), bert(seed=1)
    asked = []
    teacher.register_forward_hook(lambda *_: asked.append(1))
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    step(manager, student, optimizer, batch())
    assert len(asked) == 1
    student.eval()
    with torch.no_grad():
        outputs = student(**batch())
        assert manager.on_loss(outputs.loss, outputs) is outputs.loss
    assert len(asked) == 1


def test_self_is_the_model_as_it_was() -> None:
    """The copy is taken before anything changes: pruning at step 0 does not reach it."""
    student, inputs = bert(), batch()
    dense = copy.deepcopy(student)
    more = "  - {type: prune, sparsity: {to: 0.5, curve: one-shot}, window: {begin: 0}}\n"
    wanted = reference(dense, lambda model: model(**inputs).loss)
    assert wanted
    manager, optimizer = apply(student, "logits: {}, hardness: 1, teacher: self", more, lr=0.0)
    assert manager.sparsity == 0.5
    loss = step(manager, student, optimizer, inputs)
    with torch.no_grad():
        assert float(loss) == pytest.approx(float(kd(student(**inputs).logits, dense(**inputs).logits, 1.0)), rel=1e-4)


def test_self_with_a_new_head_is_refused(tmp_path: Any) -> None:
    import transformers

    bert().bert.save_pretrained(tmp_path)
    fresh = transformers.BertForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    with pytest.raises(PlanError, match=r"the model itself cannot be the teacher: .* is new, with random weights"):
        Plan.of(recipe("logits: {}, teacher: self"), fresh, total_steps=4)


def test_a_teacher_by_folder(tmp_path: Any) -> None:
    teacher, inputs = bert(seed=1), batch()
    teacher.save_pretrained(tmp_path)
    losses = []
    for given in (teacher, tmp_path, str(tmp_path)):
        student = bert()
        manager, optimizer = apply(student, "logits: {}, hidden: {}", teacher=given)
        losses.append(float(step(manager, student, optimizer, inputs)))
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("the student", r"shares weights with the model that is trained; write `teacher: self`"),
        ("a part of it", r"shares weights with the model that is trained"),
        ("other tokens", r"teacher reads other tokens than the model \(vocab_size 50, not 40\)"),
        ("other labels", r"teacher has the labels .*'no'.*, the model .*: they must be the same, in this order"),
        ("nothing", r"the recipe needs 'teacher' .*: give it as apply\(…, teacher=…\)"),
        ("a number", r"teacher must be a module, a folder, or the name of a model, got a int"),
        ("no folder", r"no such folder"),
        ("unknown layers", r"the teacher has no layers: nothing repeats in it"),
    ],
)
def test_a_teacher_that_does_not_fit(given: str, message: str) -> None:
    student = bert()
    teacher = {
        "the student": student,
        "a part of it": nn.Sequential(student.bert),
        "other tokens": bert(vocab_size=50),
        "other labels": bert(id2label={0: "yes", 1: "no", 2: "perhaps"}),
        "nothing": None,
        "a number": 3,
        "no folder": "./nowhere",
        "unknown layers": nn.Linear(3, 3),
    }[given]
    body = "hidden: {}" if given == "unknown layers" else "logits: {}"
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(PlanError, match=message):
        apply(student, body, teacher=teacher)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert not student._forward_hooks
    assert not student._forward_pre_hooks
