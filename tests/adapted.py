"""Small models with adapters, pruned under them: what the tests of adapters share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import Manager, Recipe
from tests.models import build

peft = pytest.importorskip("peft")
STEPS = 5
HALF = "type: prune, sparsity: 0.5, window: {begin: 0, end: 3, every: 1 step}"
TOKENS = {"input_ids": torch.arange(2, 12)[None]}


def qwen3(*, tied: bool = False) -> Any:
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 40}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = transformers.Qwen3Config(
        **sizes, **heads, max_position_embeddings=64, pad_token_id=0, tie_word_embeddings=tied
    )
    return transformers.Qwen3ForCausalLM(config)


def qwen3_moe() -> Any:
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 40}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    experts: dict[str, Any] = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
    return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**sizes, **heads, **experts, pad_token_id=0))


def gpt2() -> Any:
    return build("gpt2")


def lora(model: nn.Module, **fields: Any) -> Any:
    """Return a model with LoRA; by default on query and value."""
    torch.manual_seed(1)
    return peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **fields}))


def recipe(text: str = HALF) -> Recipe:
    return Recipe.parse(f"version: 1\nmodifiers:\n  - {{{text}}}\n")


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-2)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, manager: Manager) -> None:
    manager.on_step_begin()
    optimizer.zero_grad()
    model(**TOKENS).logits.float().square().mean().backward()
    manager.on_before_optimizer_step()
    optimizer.step()
    manager.on_step_end()


def trained(model: nn.Module, text: str = HALF) -> Manager:
    """Train a model under a recipe; return its manager, which is at its end."""
    optimizer = adamw(model)
    manager = Manager(recipe(text)).apply(model, optimizer, total_steps=STEPS)
    for _ in range(STEPS):
        step(model, optimizer, manager)
    manager.finalize()
    return manager


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    found: Tensor = model.eval()(**TOKENS).logits
    return found
