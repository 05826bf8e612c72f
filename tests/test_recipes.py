"""The curated recipes: valid, described, on pages of their own, and exact on four architectures unchanged."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsify import Manager, Plan, PlanError, Recipe
from sparsify.demo.resnet import resnet
from sparsify.masking import count_zeros
from sparsify.modifiers.prune.plan import PrunePlan
from sparsify.modifiers.regrow.plan import RegrowPlan
from sparsify.recipe.library import names

BUILT_IN = sorted(name for name, (label, _) in names().items() if label == "built in")
METHODS = [name for name in BUILT_IN if name != "demo"]
CONVOLUTIONAL = ("channels-coupled",)
"""Recipes for convolutional networks."""
TRANSFORMERS = [name for name in METHODS if name not in CONVOLUTIONAL]
WITHOUT_TARGET = ("distill", "layer-drop-3", "layer-drop-6", "lock", "nonorm-relu", "sparse-transfer")
"""Recipes that ask for no sparsity of their own."""
LOCKS = ("lock", "sparse-transfer")

STEPS = 24
DOCS = Path(__file__).parents[1] / "docs" / "methods"

_SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 40,
}
_ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", _SIZES),
    "vit": ("ViTForImageClassification", {**_SIZES, "image_size": 8, "patch_size": 4, "num_labels": 2}),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96, "vocab_size": 40, **_ENDS}),
    "llama": ("LlamaForCausalLM", {**_SIZES, "num_key_value_heads": 2, **_ENDS}),
}
FULL: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", {}),
    "vit": ("ViTForImageClassification", {}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "llama": (
        "LlamaForCausalLM",  # as Llama 3 8B has it
        {"hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256},
    ),
}


def build(kind: str, config: dict[str, Any]) -> Any:
    """Return a model of transformers."""
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, kind)
    return model(model.config_class(**config))


@cache
def skeleton(family: str) -> Any:
    """Return a model of a real configuration without weights."""
    with torch.device("meta"):
        return build(*FULL[family])


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_recipe_says_what_it_is(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.summary.endswith(".")
    assert recipe.about is not None
    assert recipe.about.license
    assert all(variable.description for variable in recipe.variables.values())
    assert Recipe.parse(recipe.dump()) == recipe


@pytest.mark.parametrize("name", METHODS)
def test_every_recipe_has_a_page(name: str) -> None:
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for part in ("**What.**", "**When not.**", "**Fields.**", "**Source.**", "**Measured.**"):
        assert part in page, part
    assert f"`{name}`" in page
    assert re.search(r"\d+\.\d+ ?%|exact by construction", page), "a figure of ours"


@pytest.mark.parametrize("family", FULL)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_recipe_fits_real_configurations_unchanged(name: str, family: str) -> None:
    plan = Plan.of(Recipe.load(name), skeleton(family), total_steps=10_000)
    spared = [
        tensor.name for m in plan.modifiers for tensor in m.tensors if "embed" in tensor.name or "head." in tensor.name
    ]
    assert not spared
    if name not in WITHOUT_TARGET:
        prunes = [modifier for modifier in plan.modifiers if isinstance(modifier, (PrunePlan, RegrowPlan))]
        assert prunes
        locks = [each for each in prunes if isinstance(each, PrunePlan) and each.spec.criterion.keeps_zeros]
        ramps = [modifier for modifier in prunes if modifier not in locks]
        assert all(modifier.nonzeros is not None or name == "channels" for modifier in ramps)


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_recipe_is_exact_on_four_architectures(name: str, family: str) -> None:
    model = build(*SMALL[family])
    if name in LOCKS:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(torch.rand_like(parameter) > 0.5)
    zeros = {key: parameter == 0 for key, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    small = {"every": 2, "layers": 1}  # models of two layers, for a few steps
    manager = Manager.from_recipe(name, **{k: v for k, v in small.items() if k in Recipe.load(name).variables})
    teachers = {binding: build(*SMALL[family]) for binding in manager.recipe.needs()}
    manager.apply(model, optimizer, total_steps=STEPS, **teachers)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        manager.on_step_begin()
        tokens = torch.randint(2, 40, (2, 6), generator=generator)
        if family == "vit":
            outputs = model(pixel_values=torch.randn(2, 3, 8, 8, generator=generator), labels=tokens[:, 0] % 2)
        else:
            outputs = model(input_ids=tokens, labels=tokens[:, 0] % 2 if family == "bert" else tokens)
        manager.on_loss(outputs.loss, outputs).backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        optimizer.zero_grad()
        manager.on_step_end()
    density = manager.finalize()
    filled = any(plan.type == "fill" for plan in manager.plan.modifiers)
    for plan in manager.plan.modifiers:
        if isinstance(plan, (PrunePlan, RegrowPlan)) and plan.nonzeros is not None and not filled:
            wanted = sum(tensor.elements for tensor in plan.tensors) - plan.nonzeros
            kept = sum(weight.geometry.elements for weight in plan.weights) - manager._masks.pruned(plan.weights)
            assert kept == plan.nonzeros
            assert sum(count_zeros(weight.tensor) for weight in plan.weights) >= wanted
            assert density.targeted.elements >= sum(tensor.elements for tensor in plan.tensors)
    if name in LOCKS:
        for weight in manager.plan.modifiers[0].weights:
            assert torch.equal(weight.tensor == 0, zeros[weight.name])


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_recipe_for_convolutions_is_exact_unchanged(name: str) -> None:
    model = resnet(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    manager = Manager.from_recipe(name, every=2).apply(model, optimizer, total_steps=STEPS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        manager.on_step_begin()
        model(torch.randn(4, 1, 8, 8, generator=generator), torch.arange(4)).loss.backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        optimizer.zero_grad()
        manager.on_step_end()
    manager.finalize()
    (plan,) = manager.plan.modifiers
    assert {tensor.bundle.partition(".")[0] for tensor in plan.tensors} == {"stem", "blocks"}
    kept = sum(weight.geometry.elements for weight in plan.weights) - manager._masks.pruned(plan.weights)
    assert kept == plan.nonzeros
    with pytest.raises(PlanError, match="would take 3.*GB"):
        Plan.of(Recipe.load(name), skeleton("llama"), total_steps=10_000)


def test_recipes_take_other_targets() -> None:
    plan = Plan.of(
        Recipe.load("gmp", targets="type:Linear"), torch.nn.Sequential(torch.nn.Linear(8, 8)), total_steps=1000
    )
    assert [tensor.name for tensor in plan.modifiers[0].tensors] == ["0.weight"]
