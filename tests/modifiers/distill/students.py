"""Small students and teachers, batches, and a loop that hands its loss to the manager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

from sparsify import Manager, Recipe

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def bert(kind: str = "SequenceClassification", layers: int = 2, seed: int = 0, **more: Any) -> Any:
    """Return a small BERT with random weights."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(**{**SIZES, "num_hidden_layers": layers, "num_labels": 3, **more})
    return getattr(transformers, f"BertFor{kind}")(config)


def gpt(seed: int = 0, vocab_size: int = 40) -> Any:
    """Return a small causal language model."""
    torch.manual_seed(seed)
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": vocab_size, "n_positions": 16}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **dropout))


def batch(seed: int = 0, **labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return four rows of six tokens, two of them padded."""
    made = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 6, [1] * 3 + [0] * 3])
    ids = torch.randint(2, 40, (4, 6), generator=made)
    return {"input_ids": ids, "attention_mask": mask, **(labels or {"labels": torch.tensor([0, 1, 2, 1])})}


def recipe(body: str, more: str = "") -> Recipe:
    """Return a recipe of one `distill`, and what follows it."""
    return Recipe.parse(f"version: 1\nmodifiers:\n  - {{type: distill, {body}}}\n{more}")


def apply(
    student: nn.Module, body: str, more: str = "", *, steps: int = 4, lr: float = 0.05, **bindings: Any
) -> tuple[Manager, torch.optim.Optimizer]:
    """Apply a recipe with SGD, so that a step shows the gradient."""
    optimizer = torch.optim.SGD(student.parameters(), lr=lr)
    return Manager(recipe(body, more)).apply(student, optimizer, total_steps=steps, **bindings), optimizer


def step(
    manager: Manager,
    student: Any,
    optimizer: torch.optim.Optimizer,
    inputs: dict[str, torch.Tensor],
    loss_of: Callable[[Any], torch.Tensor] = lambda outputs: outputs.loss,
) -> torch.Tensor:
    """Make one step; return the loss with its terms."""
    manager.on_step_begin()
    optimizer.zero_grad()
    outputs = student(**inputs)
    loss = manager.on_loss(loss_of(outputs), outputs, inputs)
    loss.backward()
    manager.on_before_optimizer_step()
    optimizer.step()
    manager.on_step_end()
    return loss.detach()
