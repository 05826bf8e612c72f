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
    ids, surprise = draw(teacher.expand(DRAWS, -1), numbers(range(DRAWS), [1] * DRAWS), TOKENS, temperature)
    found = sampled_kl(many, Sampled(ids.long(), surprise), temperature)
    found.sum().backward()
    assert many.grad is not None
    assert exact.grad is not None
    return found.detach(), many.grad, value.detach(), exact.grad[0]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_estimate_and_its_gradient_are_right_on_average(temperature: float) -> None:
    """Within a few standard errors of thousands of draws: tokens of the tail, too, which the top 12 would leave out."""
    found, gradients, value, gradient = estimates(temperature)
    assert abs(float(found.mean() - value)) < 4 * float(found.std()) / math.sqrt(DRAWS)
    errors = (gradients.mean(0) - gradient) / (gradients.std(0) / math.sqrt(DRAWS)).clamp(min=1e-6)
    assert float(errors.abs().max()) < 4.5
    assert 0.4 < float(errors.square().mean()) < 2, "the errors are those of drawing, and nothing else"
    assert float(found.std()) > 0.01, "single estimates scatter: the test says something"


def test_the_gradient_scatters_less_than_that_of_independent_tokens() -> None:
    """Of independent tokens the variance of a gradient is p·(1 − p) ÷ n in each class."""
    _, gradients, _, _ = estimates(1.0)
    chances = rows(1, 1, CLASSES)[0].softmax(-1)
    independent = chances * (1 - chances) / TOKENS
    assert 0 < float(gradients.var(0).sum()) < 0.2 * float(independent.sum())


def test_a_student_that_agrees_has_no_loss() -> None:
    teacher = rows(1, 5, CLASSES)
    ids, surprise = draw(teacher, numbers([3], [5]), TOKENS, 2.0)
    found = sampled_kl(teacher, Sampled(ids.long(), surprise), 2.0)
    torch.testing.assert_close(found, torch.zeros(5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_a_token_comes_as_often_as_the_teacher_says(tokens: int) -> None:
    """⌊n·p⌋ or ⌈n·p⌉ times at a position, and n·p times on average."""
    teacher = rows(1, 1, CLASSES)
    ids, _ = draw(teacher.expand(DRAWS, -1), numbers(range(DRAWS), [1] * DRAWS), tokens, 2.0)
    wanted = tokens * (teacher[0] / 2.0).double().softmax(-1)
    counts = torch.zeros(DRAWS, CLASSES, dtype=torch.float64).scatter_add_(
        1, ids.long(), torch.ones(DRAWS, tokens).double()
    )
    assert bool(((counts >= wanted.floor()) & (counts <= wanted.ceil())).all())
    spread = (wanted - wanted.floor()) * (wanted.ceil() - wanted)
    assert bool(((counts.mean(0) - wanted).abs() < 4.5 * (spread / DRAWS).sqrt() + 1e-6).all())


def test_what_the_teacher_rules_out_is_never_drawn() -> None:
    teacher = rows(1, 3, CLASSES)
    teacher[:, [0, CLASSES - 2, CLASSES - 1]] = -torch.inf
    ids, surprise = draw(teacher, torch.tensor([0.0, 1 - 2**-53, 0.5], dtype=torch.float64), TOKENS, 1.0)
    assert int(ids.min()) >= 1
    assert int(ids.max()) <= CLASSES - 3
    assert surprise.isfinite().all()


def test_a_teacher_that_is_sure() -> None:
    teacher = torch.full((2, CLASSES), -200.0)
    teacher[0, 7] = teacher[1, CLASSES - 1] = 200.0
    ids, surprise = draw(teacher, numbers([1], [2]), TOKENS, 1.0)
    assert ids[0].tolist() == [7] * TOKENS
    assert ids[1].tolist() == [CLASSES - 1] * TOKENS
    assert not surprise.any()


def test_numbers_depend_on_the_sample_alone() -> None:
    together, alone = numbers([5, 9], [2, 3]), numbers([9], [3])
    assert torch.equal(together[2:], alone)
    assert not torch.equal(together[:2], alone[:2])
    assert numbers([], []).shape == (0,)


def test_a_distribution_is_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, uniform = rows(1, 7, CLASSES), numbers([1], [7])
    whole = draw(teacher, uniform, TOKENS, 1.0)
    monkeypatch.setattr("sparsify.modifiers.distill.sampled.AT_ONCE", 2 * CLASSES)
    for one, other in zip(whole, draw(teacher, uniform, TOKENS, 1.0), strict=True):
        assert torch.equal(one, other)


def test_what_the_student_rules_out_has_no_say() -> None:
    student, teacher = rows(0, 4, CLASSES), rows(1, 4, CLASSES)
    ids, surprise = draw(teacher, numbers([3], [4]), TOKENS, 1.0)
    student[:, ids[0].long()] = -torch.inf
    student.requires_grad_()
    loss = sampled_kl(student, Sampled(ids.long(), surprise), 1.0)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert float(loss[0].detach()) == 0.0, "every token that was drawn is ruled out"
    assert student.grad is not None
    assert student.grad.isfinite().all()
