"""Tokens drawn from a teacher's distribution: what is estimated from them is right on average."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparsify.modifiers.distill import losses
from sparsify.modifiers.distill.sampled import Sampled, draw, numbers, sampled_kl

CLASSES, DRAWS, TOKENS = 30, 4000, 12


def rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


def estimates(temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return estimates `[draws]` and their gradients `[draws, classes]`, and what they should be on average."""
    student, teacher = rows(0, 1, CLASSES), rows(1, 1, CLASSES)
    exact = student.clone().requires_grad_()
    value = losses.kl(exact, teacher, temperature).sum()
    value.backward()
    many = student.expand(DRAWS, -1).clone().requires_grad_()
    uniform = numbers(range(DRAWS), [1] * DRAWS, TOKENS)
    ids, entropy = draw(teacher.expand(DRAWS, -1), uniform, temperature)
    found = sampled_kl(many, Sampled(ids.long(), entropy), temperature)
    found.sum().backward()
    assert many.grad is not None
    assert exact.grad is not None
    return found.detach(), many.grad, value.detach(), exact.grad[0]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_estimate_and_its_gradient_are_right_on_average(temperature: float) -> None:
    """Within four standard errors of thousands of draws: tokens of the tail, too, which the top 12 would leave out."""
    found, gradients, value, gradient = estimates(temperature)
    assert abs(float(found.mean() - value)) < 4 * float(found.std()) / math.sqrt(DRAWS)
    errors = (gradients.mean(0) - gradient) / (gradients.std(0) / math.sqrt(DRAWS)).clamp(min=1e-6)
    assert float(errors.abs().max()) < 4.5
    assert 0.6 < float(errors.square().mean()) < 1.6, "the errors are those of drawing, and nothing else"
    assert float(found.std()) > 0.01, "single estimates scatter: the test says something"


def test_tokens_come_as_often_as_the_teacher_says() -> None:
    teacher = rows(1, 1, CLASSES)
    ids, entropy = draw(teacher.expand(DRAWS, -1), numbers(range(DRAWS), [1] * DRAWS, TOKENS), 2.0)
    chances = (teacher[0] / 2.0).double().softmax(-1)
    counts = torch.bincount(ids.flatten(), minlength=CLASSES).double()
    total = DRAWS * TOKENS
    square = float(((counts - total * chances).square() / (total * chances)).sum())
    assert square < CLASSES - 1 + 4 * math.sqrt(2 * (CLASSES - 1))  # χ² with 29 degrees of freedom
    torch.testing.assert_close(entropy[0].double(), -(chances * chances.log()).sum())


def test_what_the_teacher_rules_out_is_never_drawn() -> None:
    teacher = rows(1, 3, CLASSES)
    teacher[:, [0, CLASSES - 1]] = -torch.inf
    edges = torch.tensor([[0.0, 1 - 2**-53, 0.5]], dtype=torch.float64).expand(3, -1)
    ids, entropy = draw(teacher, edges, 1.0)
    assert int(ids.min()) >= 1
    assert int(ids.max()) <= CLASSES - 2
    assert entropy.isfinite().all()


def test_numbers_depend_on_the_sample_alone() -> None:
    together, alone = numbers([5, 9], [2, 3], 4), numbers([9], [3], 4)
    assert torch.equal(together[2:], alone)
    assert not torch.equal(together[:2], alone[:2])
    assert numbers([], [], 4).shape == (0, 4)


def test_a_distribution_is_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, uniform = rows(1, 7, CLASSES), numbers([1], [7], TOKENS)
    whole = draw(teacher, uniform, 1.0)
    monkeypatch.setattr("sparsify.modifiers.distill.sampled.AT_ONCE", 2 * CLASSES)
    for one, other in zip(whole, draw(teacher, uniform, 1.0), strict=True):
        assert torch.equal(one, other)


def test_what_the_student_rules_out_has_no_say() -> None:
    student, teacher = rows(0, 4, CLASSES), rows(1, 4, CLASSES)
    ids, entropy = draw(teacher, numbers([3], [4], TOKENS), 1.0)
    student[:, ids[0].long()] = -torch.inf
    student.requires_grad_()
    loss = sampled_kl(student, Sampled(ids.long(), entropy), 1.0)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert float(loss[0].detach()) == 0.0, "every token that was drawn is ruled out"
    assert student.grad is not None
    assert student.grad.isfinite().all()
