"""What a teacher's and a student's tensors differ by: pure functions, in float32, summed over the positions given.

Logits are `[positions, classes]`, hidden states `[positions, features]`; each function returns one value a position, so
that the caller leaves out padding and takes the mean over what counts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-6


def log_probabilities(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log softmax(s/T) and log softmax(t/T) over the last dimension, in float32.

    Classes that either rules out (a logit of −∞, as masked choices have) are ruled out for both: the divergence stays
    finite, and has no gradient there.
    """
    student, teacher = student.float() / temperature, teacher.float() / temperature
    out = (student == -torch.inf) | (teacher == -torch.inf)
    low = torch.finfo(torch.float32).min
    return tuple(F.log_softmax(logits.masked_fill(out, low), dim=-1) for logits in (student, teacher))  # type: ignore[return-value]


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T²·KL(teacher ‖ student) of each position. Source: Hinton et al., "Distilling the Knowledge" (2015)."""
    log_s, log_t = log_probabilities(student, teacher, temperature)
    return _divergence(log_t, log_s) * temperature**2


def jsd(student: Tensor, teacher: Tensor, temperature: float, beta: float) -> Tensor:
    """Return T² times the generalized Jensen–Shannon divergence of each position.

    β·KL(t ‖ m) + (1 − β)·KL(s ‖ m), m = β·t + (1 − β)·s; its limits, divided by what vanishes, stand for β = 0 (forward
    KL, teacher ‖ student) and β = 1 (reverse KL). Source: Agarwal et al., "On-Policy Distillation of Language Models".
    """
    log_s, log_t = log_probabilities(student, teacher, temperature)
    if beta == 0:
        return _divergence(log_t, log_s) * temperature**2
    if beta == 1:
        return _divergence(log_s, log_t) * temperature**2
    weights = torch.tensor([beta, 1 - beta], device=log_s.device).log()
    log_m = torch.logsumexp(torch.stack([log_t + weights[0], log_s + weights[1]]), dim=0)
    both = beta * _divergence(log_t, log_m) + (1 - beta) * _divergence(log_s, log_m)
    return both * temperature**2


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of each position; classes that either rules out (−∞) are left out."""
    student, teacher = student.float(), teacher.float()
    out = (student == -torch.inf) | (teacher == -torch.inf)
    squares = (student.masked_fill(out, 0.0) - teacher.masked_fill(out, 0.0)).square()
    return squares.sum(-1) / (~out).sum(-1).clamp(min=1)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 − cos of each position; classes that either rules out (−∞) are left out."""
    student, teacher = student.float(), teacher.float()
    out = (student == -torch.inf) | (teacher == -torch.inf)
    return 1 - F.cosine_similarity(student.masked_fill(out, 0.0), teacher.masked_fill(out, 0.0), dim=-1, eps=1e-12)


def square_head(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ‖s − t‖² ÷ (‖t‖² + ε) of all positions together, one number.

    Source: Kurtic et al., "Sparse Fine-tuning for Inference Acceleration of Large Language Models" (SquareHead).
    """
    student, teacher = student.float(), teacher.float()
    return (student - teacher).square().sum() / (teacher.square().sum() + EPSILON)


def attention_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher ‖ student) of each row of attention probabilities; dropout may have zeroed the student's."""
    student, teacher = student.float(), teacher.float()
    return _divergence(teacher.clamp(min=EPSILON).log(), student.clamp(min=EPSILON).log())


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p ‖ q) over the last dimension."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)
