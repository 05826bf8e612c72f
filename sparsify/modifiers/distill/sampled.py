"""A teacher's distribution over a vocabulary as tokens drawn from it, and its entropy.

KL(t ‖ s) = E[−log s(x)] − H(t), x ~ t: the mean over tokens drawn with replacement estimates it without bias, and so
do its gradients, the tail of the distribution included. Keeping the top k and forgetting the rest would not.
Source: Anshumann et al., "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs" (2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

AT_ONCE = 1 << 23
"""Numbers of a distribution that are worked on at a time."""


@dataclass(frozen=True)
class Sampled:
    """What is known of a teacher's distributions."""

    ids: Tensor
    """`[…, tokens]`, int64."""

    entropy: Tensor
    """`[…]`, float32, of the distribution at the temperature."""


def numbers(seeds: Sequence[int], counts: Sequence[int], tokens: int) -> Tensor:
    """Return uniform numbers `[sum of counts, tokens]`, float64: those of a sample depend on its seed alone."""
    drawn = []
    for seed, count in zip(seeds, counts, strict=True):
        generator = torch.Generator().manual_seed(seed)
        drawn.append(torch.rand(count, tokens, generator=generator, dtype=torch.float64))
    return torch.cat(drawn) if drawn else torch.empty(0, tokens, dtype=torch.float64)


def draw(logits: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return ids `[positions, tokens]`, int32, drawn from softmax(t/T), and its entropies `[positions]`, float32.

    `logits` are `[positions, classes]`, `uniform` `[positions, tokens]` in [0, 1). What has probability 0 is not drawn.
    """
    ids, entropies = [], []
    size = max(AT_ONCE // max(logits.shape[-1], 1), 1)
    for begin in range(0, len(logits), size):
        part, own = logits[begin : begin + size], uniform[begin : begin + size].to(logits.device)
        chances = (part.double() / temperature).softmax(-1)
        ends = chances.cumsum(-1)
        found = torch.searchsorted(ends, own * ends[:, -1:], right=True)
        last = chances.shape[-1] - 1 - (chances.flip(-1) > 0).int().argmax(-1, keepdim=True)
        ids.append(torch.minimum(found, last).int())
        entropies.append(torch.special.entr(chances).sum(-1).float())
    if not ids:
        return uniform.new_empty(uniform.shape, dtype=torch.int32), uniform.new_empty(0, dtype=torch.float32)
    return torch.cat(ids), torch.cat(entropies)


def sampled_kl(student: Tensor, taught: Sampled, temperature: float) -> Tensor:
    """Return an estimate of T²·KL(teacher ‖ student) of each position, in float32, right on average.

    `student` are logits `[…, classes]`. Tokens that the student rules out (a logit of −∞) count for nothing.
    """
    student = student.float() / temperature
    out = student == -torch.inf
    low = torch.finfo(torch.float32).min
    logits = student.masked_fill(out, low)
    missed = out.gather(-1, taught.ids)
    surprise = (logits.logsumexp(-1, keepdim=True) - logits.gather(-1, taught.ids)).masked_fill(missed, 0.0)
    kept = (~missed).sum(-1)
    mean = surprise.sum(-1) / kept.clamp(min=1)
    return torch.where(kept > 0, mean - taught.entropy, torch.zeros_like(mean)) * temperature**2
