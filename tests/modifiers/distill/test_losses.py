"""Distillation losses against what can be derived by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparsify.modifiers.distill import losses


def rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.5])
def test_the_gradient_of_kl_is_that_of_the_books(temperature: float) -> None:
    """d/ds of T²·KL = T·(softmax(s/T) − softmax(t/T)): the factor T² keeps gradients from vanishing with T."""
    student, teacher = rows(0, 5, 7).requires_grad_(), rows(1, 5, 7)
    losses.kl(student, teacher, temperature).sum().backward()
    by_hand = temperature * ((student / temperature).softmax(-1) - (teacher / temperature).softmax(-1))
    assert student.grad is not None
    torch.testing.assert_close(student.grad, by_hand.detach(), atol=1e-5, rtol=1e-5)


def test_kl_is_its_definition() -> None:
    student, teacher = rows(0, 3, 4), rows(1, 3, 4)
    p, q = (teacher / 3).softmax(-1), (student / 3).softmax(-1)
    by_hand = 9 * (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(losses.kl(student, teacher, 3.0), by_hand)
    assert losses.kl(teacher, teacher, 3.0).abs().max() < 1e-6


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_is_its_definition(beta: float) -> None:
    student, teacher = rows(0, 3, 4), rows(1, 3, 4)
    t, s = teacher.softmax(-1), student.softmax(-1)
    m = beta * t + (1 - beta) * s
    by_hand = beta * (t * (t / m).log()).sum(-1) + (1 - beta) * (s * (s / m).log()).sum(-1)
    torch.testing.assert_close(losses.jsd(student, teacher, 1.0, beta), by_hand)


def test_the_ends_of_jsd_are_forward_and_reverse_kl() -> None:
    student, teacher = rows(0, 3, 4), rows(1, 3, 4)
    torch.testing.assert_close(losses.jsd(student, teacher, 2.0, 0.0), losses.kl(student, teacher, 2.0))
    torch.testing.assert_close(losses.jsd(student, teacher, 2.0, 1.0), losses.kl(teacher, student, 2.0))


@pytest.mark.parametrize("who", ["both", "student", "teacher"])
@pytest.mark.parametrize("kind", ["kl", "jsd", "mse", "cosine"])
def test_what_is_ruled_out_has_no_say(kind: str, who: str) -> None:
    """A logit of −∞ (a masked choice) leaves the loss finite, and has no gradient."""
    student, teacher = rows(0, 3, 5), rows(1, 3, 5)
    if who != "teacher":
        student[:, 2] = -torch.inf
    if who != "student":
        teacher[:, 2] = -torch.inf
    student.requires_grad_()
    loss = {
        "kl": lambda: losses.kl(student, teacher, 2.0),
        "jsd": lambda: losses.jsd(student, teacher, 2.0, 0.3),
        "mse": lambda: losses.mse(student, teacher),
        "cosine": lambda: losses.cosine(student, teacher),
    }[kind]()
    loss.sum().backward()
    assert loss.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert not student.grad[:, 2].any()
    assert student.grad[:, 0].any()


def test_half_precision_is_computed_in_float32() -> None:
    student, teacher = rows(0, 4, 1000).half(), rows(1, 4, 1000).half()
    assert losses.kl(student, teacher, 1.0).dtype == torch.float32
    exact = losses.kl(student.float(), teacher.float(), 1.0)
    assert torch.equal(losses.kl(student, teacher, 1.0), exact)


def test_square_head_does_not_depend_on_the_scale() -> None:
    student, teacher = rows(0, 6, 8), rows(1, 6, 8)
    one = losses.square_head(student, teacher)
    assert float(one) == pytest.approx(float((student - teacher).square().sum() / teacher.square().sum()), rel=1e-5)
    assert float(losses.square_head(100 * student, 100 * teacher)) == pytest.approx(float(one), rel=1e-4)


def test_attention_kl_survives_dropout() -> None:
    teacher = rows(1, 2, 5).softmax(-1)
    student = teacher.clone()
    student[0, 1] = 0.0
    found = losses.attention_kl(student, teacher)
    assert found.isfinite().all()
    assert float(found[0]) > float(found[1])
    assert math.isclose(float(found[1]), 0.0, abs_tol=1e-6)
