"""What tests of the engine's attention share: inputs that lie as those of transformers, and models that ask for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify.engine import attending, library
from sparsify.engine.attention import attend
from sparsify.engine.library import INSTRUCTIONS

BEST = 0 if library.missing() else INSTRUCTIONS[library.instructions()]
SETS = [number for number in INSTRUCTIONS.values() if 0 < number <= BEST]
IDS = torch.arange(80).view(2, 40)
SAMPLE = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


def inputs(batch: int, heads: int, queries: int, keys: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v that lie as those of transformers do."""
    torch.manual_seed(queries)
    q, k, v = (torch.randn(batch, tokens, heads, width).transpose(1, 2) for tokens in (queries, keys, keys))
    return q, k, v


def padded(left: bool = False) -> dict[str, Tensor]:
    """Return `SAMPLE` with a second text of 20 tokens, padded on one side."""
    mask = torch.ones_like(IDS)
    mask[1, slice(0, 20) if left else slice(20, None)] = 0
    return {"input_ids": IDS, "attention_mask": mask}


def bert() -> Any:
    """Return a small BERT of two layers whose linear layers have 90 % zeros."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, vocab_size=99
    )
    return pruned(transformers.BertModel(config))


def pruned(model: Any) -> Any:
    """Return a model in evaluation with 90 % zeros in its linear layers."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(torch.rand_like(module.weight) < 0.1)
    return model.eval()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets an entry for each call of the engine's attention: how many queries it has."""
    calls: list[int] = []

    def counting(q: Tensor, *arguments: Any, **named: Any) -> Tensor:
        calls.append(q.shape[2])
        return attend(q, *arguments, **named)

    monkeypatch.setattr(attending, "attend", counting)
    return calls


@torch.inference_mode()
def output(model: Any, **inputs: Tensor) -> Tensor:
    """Return the first output of a model."""
    found: Tensor = model(**inputs)[0]
    return found
