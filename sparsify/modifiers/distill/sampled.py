"""A teacher's distribution over a vocabulary as a few tokens drawn from it.

KL(t ‖ s) = E[log t(x) − log s(x)], x ~ t: the mean over drawn tokens estimates it without bias, and its gradients, too,
the tail of the distribution included; the top k, with the rest forgotten, would not. It is 0 where s = t. Source:
Anshumann et al., "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs" (2025). They draw tokens
independently; here one number u places n of them, at (u + i) ÷ n of the cumulated distribution, so that a token of
probability p is there ⌊n·p⌋ or ⌈n·p⌉ times: n·p on average, with the least variance that whole numbers can have.
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

    surprise: Tensor
    """`[…]`, float32: the teacher's own mean of −log t over these tokens, at the temperature."""


def numbers(seeds: Sequence[int], counts: Sequence[int]) -> Tensor:
    """Return uniform numbers `[sum of counts]`, float64: those of a sample depend on its seed alone."""
    drawn = [torch.empty(0, dtype=torch.float64)]
    for seed, count in zip(seeds, counts, strict=True):
        drawn.append(torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return torch.cat(drawn)


def draw(logits: Tensor, uniform: Tensor, tokens: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Return ids `[positions, tokens]`, int32, drawn from softmax(t/T), and surprises `[positions]`, float32.

    `logits` are `[positions, classes]`, `uniform` `[positions]` in [0, 1). What has probability 0 is not drawn.
    """
    ids = torch.empty(len(logits), tokens, dtype=torch.int32)
    surprise = torch.empty(len(logits), dtype=torch.float32)
    steps = torch.arange(tokens, dtype=torch.float64, device=logits.device)
    size = max(AT_ONCE // max(logits.shape[-1], 1), 1)
    for begin in range(0, len(logits), size):
        part = slice(begin, begin + size)
        log_t = (logits[part].double() / temperature).log_softmax(-1)
        ends = log_t.exp().cumsum(-1)
        places = (steps + uniform[part, None].to(logits.device)) / tokens * ends[:, -1:]
        found = torch.searchsorted(ends, places, right=True)
        last = (ends < ends[:, -1:]).sum(-1, keepdim=True)  # rounding must not lead beyond what can be drawn
        found = torch.minimum(found, last)
        ids[part] = found.int().cpu()
        surprise[part] = -log_t.gather(-1, found).mean(-1).float().cpu()
    return ids, surprise


def sampled_kl(student: Tensor, taught: Sampled, temperature: float) -> Tensor:
    """Return an estimate of T²·KL(teacher ‖ student) of each position, in float32, right on average.

    `student` are logits `[…, classes]`. Tokens that the student rules out (a logit of −∞) count for nothing.
    """
    student = student.float() / temperature
    out = student == -torch.inf
    logits = student.masked_fill(out, torch.finfo(torch.float32).min)
    missed = out.gather(-1, taught.ids)
    surprise = (logits.logsumexp(-1, keepdim=True) - logits.gather(-1, taught.ids)).masked_fill(missed, 0.0)
    kept = (~missed).sum(-1)
    mean = surprise.sum(-1) / kept.clamp(min=1)
    return torch.where(kept > 0, mean - taught.surprise, torch.zeros_like(mean)) * temperature**2
