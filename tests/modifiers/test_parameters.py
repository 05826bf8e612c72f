"""What selectors mean when parameters are frozen."""

from __future__ import annotations

import pytest
import torch

from sparsify import Plan, PlanError, Recipe
from tests.models import build

ATTENTION = [f"attention.{part}" for part in ("self.query", "self.key", "self.value", "output.dense")]
LAYER = [*ATTENTION, "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"]


def both(*modules: str) -> set[str]:
    return {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}


def frozen(model: str, fields: str) -> set[str]:
    recipe = Recipe.parse(f"version: 1\nmodifiers:\n  - {{type: freeze, {fields}}}\n")
    (plan,) = Plan.of(recipe, build(model), total_steps=10).modifiers
    return {weight.name for weight in plan.touches}


def in_layers(*parts: str, layers: tuple[int, ...] = (0, 1)) -> set[str]:
    return both(*(f"bert.encoder.layer.{layer}.{part}" for layer in layers for part in parts))


TABLES = {f"bert.embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")}

SELECTED = {
    "targets: attention": in_layers(*ATTENTION),
    "targets: attention, layers: 1": in_layers(*ATTENTION, layers=(1,)),
    "targets: ffn.up": in_layers("intermediate.dense"),
    "targets: embeddings": TABLES,
    "targets: bert.embeddings": TABLES | both("bert.embeddings.LayerNorm"),
    'targets: "*.layer.0"': in_layers(*LAYER, layers=(0,)),
    "layers: 0": in_layers(*LAYER, layers=(0,)),
    'layers: 0-1, exclude: "type:LayerNorm"': in_layers(*(part for part in LAYER if "Norm" not in part)),
    "targets: task_head": both("bert.pooler.dense", "classifier"),
    "targets: classifier.bias": {"classifier.bias"},
    'targets: "type:LayerNorm"': in_layers(*(part for part in LAYER if "Norm" in part))
    | both("bert.embeddings.LayerNorm"),
    'targets: "*", exclude: [bert]': both("classifier"),
}


@pytest.mark.parametrize("fields", SELECTED)
def test_what_is_frozen(fields: str) -> None:
    assert frozen("bert", fields) == SELECTED[fields]


def test_everything_is_everything() -> None:
    for name in ("bert", "gpt2", "t5", "vit", "resnet", "llama", "torch"):
        recipe, model = Recipe.parse('version: 1\nmodifiers:\n  - {type: freeze, targets: "*"}\n'), build(name)
        (plan,) = Plan.of(recipe, model, total_steps=10).modifiers
        found = [id(weight.parameter) for weight in plan.touches]
        assert sorted(found) == sorted(id(parameter) for parameter in model.parameters())
        assert f"{sum(parameter.numel() for parameter in model.parameters()):,}" == plan.facts["parameters"]


def test_a_part_of_a_matrix_is_not_frozen_by_itself() -> None:
    with pytest.raises(PlanError, match=r"c_attn\.weight\[0:32\].*: is a part of .*c_attn\.weight, which can only"):
        frozen("gpt2", "targets: attention.query")
    assert "transformer.h.0.attn.c_attn.bias" in frozen("gpt2", "targets: attention")


def test_a_tied_table_is_noted() -> None:
    recipe = Recipe.parse("version: 1\nmodifiers:\n  - {type: freeze, targets: embeddings}\n")
    plan = Plan.of(recipe, build("gpt2"), total_steps=10)
    assert any("wte.weight is tied to lm_head.weight" in note or "lm_head" in note for note in plan.notes)


def test_sharded_parameters_are_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    model[0].weight.placements = ()  # as a DTensor has
    recipe = Recipe.parse('version: 1\nmodifiers:\n  - {type: freeze, targets: "0"}\n')
    with pytest.raises(PlanError, match=r"0\.weight: is sharded"):
        Plan.of(recipe, model, total_steps=10)
