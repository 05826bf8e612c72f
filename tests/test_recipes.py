"""The curated recipes: valid, described, and exact on a small transformer."""

from __future__ import annotations

import pytest
import torch

from sparsify import Manager, Recipe
from sparsify.recipe.library import names

BUILT_IN = sorted(name for name, (label, _) in names().items() if label == "built in")


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_recipe_says_what_it_is(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.summary.endswith(".")
    assert recipe.about is not None
    assert recipe.about.license
    assert Recipe.parse(recipe.dump()) == recipe


def test_gmp_prunes_a_transformer() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50)
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    manager = Manager.from_recipe("gmp", sparsity=0.9, targets="bert.encoder", every=2)
    manager.apply(model, optimizer, total_steps=40)
    for _ in range(40):
        manager.on_step_begin()
        tokens = torch.randint(0, 50, (4, 12))
        model(input_ids=tokens, labels=tokens[:, 0] % 2).loss.backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        optimizer.zero_grad()
        manager.on_step_end()
    density = manager.finalize()
    assert len(density.tensors) == 12
    for count in density.tensors.values():
        assert count.elements - count.nonzeros == round(0.9 * count.elements)
