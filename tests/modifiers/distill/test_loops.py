"""What goes wrong in loops with `distill`, and what a resume, a report and two teachers make of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import HookError, Manager, StateError
from tests.modifiers.distill.by_hand import gradients, kd, reference, the_same
from tests.modifiers.distill.students import apply, batch, bert, step


def test_a_loop_that_forgets_on_loss_is_told_before_the_first_step() -> None:
    student, teacher, inputs = bert(), bert(seed=1), batch()
    manager, _ = apply(student, "logits: {}", teacher=teacher)
    manager.on_step_begin()
    student(**inputs).loss.backward()
    with pytest.raises(HookError, match=r"on_loss\(\) was not called in this step"):
        manager.on_before_optimizer_step()


def test_a_loss_that_nobody_trains_is_noticed() -> None:
    student, teacher, inputs = bert(), bert(seed=1), batch()
    manager, _ = apply(student, "logits: {}", teacher=teacher)
    manager.on_step_begin()
    outputs = student(**inputs)
    manager.on_loss(outputs.loss, outputs, inputs)
    outputs.loss.backward()
    with pytest.raises(HookError, match=r"backward\(\) was not called on the loss that on_loss\(\) returned"):
        manager.on_before_optimizer_step()


@pytest.mark.parametrize("body", ["attention: {}", "logits: {}, attention: {}"])
def test_a_term_that_teaches_nothing_is_noticed(body: str) -> None:
    """Reentrant checkpointing hands on what comes out of layers, but no gradient to what is within them."""
    eager: dict[str, Any] = {"attn_implementation": "eager"}
    student, teacher, inputs = bert(**eager), bert(seed=1, **eager), batch()
    student.train()
    _checkpoint(student, reentrant=True)
    student.enable_input_require_grads()
    manager, _ = apply(student, body, teacher=teacher)
    manager.on_step_begin()
    outputs = student(**inputs)
    with pytest.raises(
        HookError, match=r"attention has no gradient: .*reentrant gradient checkpointing \(use_reentrant=F"
    ):
        manager.on_loss(outputs.loss, outputs, inputs)
    frozen, inputs = bert(), batch()
    frozen.bert.encoder.requires_grad_(False)
    frozen.bert.embeddings.requires_grad_(False)
    manager, _ = apply(frozen, "logits: {}, hidden: {}", teacher=teacher)
    manager.on_step_begin()
    outputs = frozen(**inputs)
    with pytest.raises(HookError, match=r"hidden has no gradient: what it compares is frozen"):
        manager.on_loss(outputs.loss, outputs, inputs)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant: bool) -> None:
    """What a backward computes again is neither recorded nor counted."""
    found = []
    for on in (False, True):
        student, teacher = bert(), bert(seed=1)
        student.train()
        if on:
            _checkpoint(student, reentrant=reentrant)
            student.enable_input_require_grads()
        manager, optimizer = apply(student, "logits: {}, hidden: {}", teacher=teacher, steps=2)
        for number in range(2):
            step(manager, student, optimizer, batch(number))
        found.append(gradients(student))
        assert manager._runs[0].report()["losses"] == 2
    the_same(found[1], found[0])


def _checkpoint(model: Any, *, reentrant: bool) -> None:
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})


def test_on_loss_without_a_forward() -> None:
    student, teacher = bert(), bert(seed=1)
    manager, _ = apply(student, "logits: {}", teacher=teacher)
    manager.on_step_begin()
    with pytest.raises(HookError, match=r"on_loss\(\) without a forward of the model before it"):
        manager.on_loss(torch.ones((), requires_grad=True))


def test_logits_of_another_shape() -> None:
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 5)
    manager, _ = apply(student, "logits: {}", teacher=teacher)
    manager.on_step_begin()
    outputs = student(torch.randn(2, 4))
    with pytest.raises(HookError, match=r"the model's logits are \[2, 3\], the teacher's \[2, 5\]"):
        manager.on_loss(outputs.mean(), outputs)


def test_a_plain_module_needs_no_transformers() -> None:
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    inputs = torch.randn(6, 4)

    def by_hand(model: nn.Module) -> Tensor:
        outputs = model(inputs)
        return outputs.square().mean() + kd(outputs, teacher(inputs).detach(), 1.0)

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    manager.on_step_begin()
    optimizer.zero_grad()
    outputs = student(inputs)
    manager.on_loss(outputs.square().mean(), outputs).backward()
    manager.on_before_optimizer_step()
    the_same(gradients(student), wanted)


def test_hooks_leave_with_the_training() -> None:
    student, teacher = bert(), bert(seed=1)
    manager, optimizer = apply(student, "logits: {}, hidden: {}", teacher=teacher, steps=1)
    copied = copy.deepcopy(student)
    copied(**batch())
    step(manager, student, optimizer, batch())
    manager.finalize()
    for model in (student, teacher):
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks


@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.parametrize("own", [False, True])
def test_a_resumed_training_ends_with_the_same_bits(own: bool, stop: int) -> None:
    """Projections, the copy of the model, and the means of the report, too."""
    body = "logits: {temperature: 2}, hidden: {}" + (", teacher: self" if own else "")
    more = "  - {type: prune, criterion: movement, sparsity: 0.5}\n"

    def start(seed: int) -> tuple[Any, Manager, Any]:
        student = bert(seed=seed)
        given = {} if own else {"teacher": bert(seed=1, hidden_size=24)}
        manager, optimizer = apply(student, body, more, steps=5, **given)
        return student, manager, optimizer

    student, manager, optimizer = start(0)
    for number in range(5):
        if number == stop:
            saved = [copy.deepcopy(part.state_dict()) for part in (student, optimizer, manager)]
        step(manager, student, optimizer, batch(number))
    other, second, again = start(7 if own else 0)  # another start: the copy that counts is the one in the state
    for part, state in zip((other, again, second), saved, strict=True):
        part.load_state_dict(state)
    for number in range(stop, 5):
        step(second, other, again, batch(number))
    for name, value in student.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert manager.state_dict()["modifiers"]["distill"]["sums"] == second.state_dict()["modifiers"]["distill"]["sums"]


def test_another_teacher_is_refused_on_resume() -> None:
    student = bert()
    manager, optimizer = apply(student, "logits: {}", teacher=bert(seed=1))
    step(manager, student, optimizer, batch())
    other = bert()
    second, _ = apply(other, "logits: {}", teacher=bert(seed=2))
    other.load_state_dict(student.state_dict())
    with pytest.raises(StateError, match="the training was begun with another teacher"):
        second.load_state_dict(manager.state_dict())


def test_the_report_says_what_was_distilled() -> None:
    from sparsify.modifiers.distill import Distill

    student = bert()
    manager, optimizer = apply(student, "terms: [{type: logits}, {type: logits, loss: cosine}]", teacher=bert(seed=1))
    for number in range(4):
        step(manager, student, optimizer, batch(number))
    found = manager._runs[0].report()
    assert found["losses"] == 4
    assert set(found["distilled"]) == {"logits", "logits-2"}
    assert "4 losses with distillation; means of the terms: logits 0." in Distill.findings(found)[0]


def test_what_is_distilled_twice_from_two_teachers() -> None:
    """Two distillations share a step; each knows its own teacher."""
    student, one, two, inputs = bert(), bert(seed=1), bert(seed=2), batch()

    def by_hand(model: Any) -> Tensor:
        outputs = model(**inputs)
        return outputs.loss + sum(kd(outputs.logits, each(**inputs).logits.detach(), 1.0) for each in (one, two))

    wanted = reference(student, by_hand)
    more = "  - {type: distill, teacher: other, logits: {}}\n"
    manager, optimizer = apply(student, "logits: {}", more, teacher=one, other=two)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)
