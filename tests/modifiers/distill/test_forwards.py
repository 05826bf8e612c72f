"""Several forwards in a step, teachers that stay where they are, and what is no distribution."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sparsify import HookError, PlanError
from tests.modifiers.distill.students import apply, batch, bert, step


def test_outputs_of_an_earlier_forward_are_refused() -> None:
    """Its hidden states are gone: those of the last forward would be compared in their place."""
    student, teacher = bert(), bert(seed=1)
    manager, _ = apply(student, "hidden: {}", teacher=teacher)
    manager.on_step_begin()
    first, second = (student(**batch(number)) for number in range(2))
    with pytest.raises(HookError, match="outputs of a forward that was not the last one"):
        manager.on_loss(first.loss, first, batch(0))
    one = student(**batch(0))
    assert bool(manager.on_loss(one.loss, one, batch(0)) > one.loss)
    del second


def test_an_evaluation_between_a_forward_and_its_loss() -> None:
    student, teacher = bert(), bert(seed=1)
    manager, _ = apply(student, "logits: {}, hidden: {}", teacher=teacher)
    manager.on_step_begin()
    outputs = student(**batch(0))
    alone = manager.on_loss(outputs.loss, outputs).detach()
    outputs = student(**batch(0))
    with torch.no_grad():
        student(**batch(1))
    assert torch.equal(manager.on_loss(outputs.loss, outputs).detach(), alone)


# ---------------------------------------------------------------------- teachers that stay where they are


class Fixed(nn.Module):
    """A quantized teacher: it cannot be moved."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, device=device))

    def to(self, *_: Any, **__: Any) -> Any:
        raise ValueError("`.to` is not supported for `4-bit` models\nuse something else")

    def forward(self, **_: Any) -> Any:
        return torch.zeros(4, 3) * self.weight


def test_a_teacher_that_cannot_be_moved() -> None:
    """It serves where it lies on the student's device; else that is an error with its reason."""
    student = bert()
    manager, optimizer = apply(student, "logits: {}", teacher=Fixed("cpu"))
    step(manager, student, optimizer, batch())
    manager.detach()
    with pytest.raises(PlanError, match="weights are not in memory"):
        apply(student, "logits: {}", teacher=Fixed("meta"))


# ---------------------------------------------------------------------- what is no distribution


def test_several_labels_are_a_distribution_each() -> None:
    """T²·KL of yes and no, the mean over labels, as binary cross-entropy has it."""
    several = {"problem_type": "multi_label_classification"}
    student, teacher = bert(**several), bert(seed=1, **several)
    with torch.no_grad():
        teacher.classifier.bias.add_(torch.tensor([2.0, -1.0, 0.5]))  # an opinion; one that softmax would not see
        teacher.classifier.bias.add_(1.0)
    inputs = batch(labels=torch.tensor([[1.0, 0, 1]] * 4))
    manager, _ = apply(student, "logits: {temperature: 2}", teacher=teacher)
    manager.on_step_begin()
    outputs = student(**inputs)
    term = float((manager.on_loss(outputs.loss, outputs, inputs) - outputs.loss).detach())
    with torch.no_grad():
        said = teacher(**{key: value for key, value in inputs.items() if key != "labels"}).logits
    two, one = (logits.detach().double().div(2).sigmoid() for logits in (said, outputs.logits))
    expected = two * (two / one).log() + (1 - two) * ((1 - two) / (1 - one)).log()
    assert term == pytest.approx(4 * float(expected.mean()), rel=1e-3)


@pytest.mark.parametrize("loss", ["kl", "jsd"])
def test_one_class_is_no_distribution(loss: str) -> None:
    """It would be 0, and nothing would be learned from the teacher."""
    student, teacher = nn.Linear(4, 1), nn.Linear(4, 1)
    manager, _ = apply(student, f"logits: {{loss: {loss}}}", teacher=teacher)
    manager.on_step_begin()
    outputs = student(torch.ones(2, 4))
    with pytest.raises(HookError, match="logits of one class .* are no distribution"):
        manager.on_loss(outputs.sum(), outputs)


# ---------------------------------------------------------------------- what teachers take


class Several(nn.Module):
    """Two teachers, whose logits are averaged: a module of one's own, which takes no labels."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([bert(seed=seed) for seed in (1, 2)])

    def forward(self, input_ids: Any, attention_mask: Any = None) -> Any:
        return torch.stack([each(input_ids, attention_mask).logits for each in self.members]).mean(0)


@pytest.mark.parametrize("cache", ["", ", cache: {}"])
def test_a_teacher_of_ones_own_is_given_what_it_takes(cache: str) -> None:
    student, teacher = bert(), Several()
    manager, optimizer = apply(student, f"logits: {{loss: mse}}{cache}", teacher=teacher)
    manager.on_step_begin()
    outputs = student(**batch())
    term = (manager.on_loss(outputs.loss, outputs) - outputs.loss).detach()
    with torch.no_grad():
        expected = (teacher(batch()["input_ids"], batch()["attention_mask"]) - outputs.logits).square().mean()
    assert torch.allclose(term, expected, rtol=1e-2)
    manager.detach()
    del optimizer


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")  # what PEFT asks of models
def test_a_teacher_under_an_adapter_reads_which_sentence_is_the_second() -> None:
    """PEFT's forward does not name `token_type_ids`, and hands them on."""
    pytest.importorskip("peft")
    from tests.adapted import lora

    student, plain = bert(), bert(seed=1)
    adapted = lora(copy.deepcopy(plain), target_modules=["query"], task_type="SEQ_CLS")
    inputs = {**batch(), "token_type_ids": torch.tensor([[0, 0, 1, 1, 1, 1]] * 4)}
    found = []
    for teacher in (plain, adapted):
        manager, _ = apply(student, "logits: {loss: mse}", teacher=teacher)
        manager.on_step_begin()
        outputs = student(**inputs)
        found.append((manager.on_loss(outputs.loss, outputs) - outputs.loss).detach())
        manager.detach()
    assert torch.allclose(*found, rtol=1e-3)


class NotANumberInPadding(nn.Module):
    """As attention over nothing but padding may give it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        logits = self.weight * input_ids[..., None] / 40
        return logits.masked_fill(attention_mask[..., None] == 0, torch.nan)


def test_what_a_teacher_says_of_padding_reaches_no_gradient() -> None:
    student, inputs = bert("TokenClassification"), batch()
    inputs["labels"] = (inputs["input_ids"] % 3).masked_fill(inputs["attention_mask"] == 0, -100)
    manager, optimizer = apply(student, "logits: {temperature: 2}", teacher=NotANumberInPadding())
    assert step(manager, student, optimizer, inputs).isfinite()
    assert all(bool(parameter.isfinite().all()) for parameter in student.parameters())
    manager.on_step_begin()
    nothing = {**inputs, "labels": torch.full_like(inputs["labels"], -100)}
    outputs = student(**nothing)
    assert float((manager.on_loss(outputs.logits.sum(), outputs, nothing) - outputs.logits.sum()).detach()) == 0.0


@pytest.mark.parametrize(("student", "teacher"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_teacher_of_another_dtype_sees_images_in_its_own(student: str, teacher: str) -> None:
    one, two = (nn.Sequential(nn.Conv2d(3, 2, 2), nn.Flatten()).to(getattr(torch, each)) for each in (student, teacher))
    manager, _ = apply(one, "logits: {loss: mse}", teacher=two)
    manager.on_step_begin()
    outputs = one(torch.rand(2, 3, 4, 4, dtype=getattr(torch, student)))
    assert bool(manager.on_loss(outputs.sum(), outputs) > outputs.sum())
