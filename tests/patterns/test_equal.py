"""`equal: true`: as many heads, neurons or filters in every layer, whatever the scope; and what the plan says of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sparsify import Manager, Plan, PlanError, Recipe, RecipeError
from sparsify.compaction import compacted
from tests.anatomy.declared import make
from tests.majors import OLD

WINDOW = "window: {begin: 0, end: 3, every: 1}"


def recipe(targets: str, pattern: str, sparsity: float | str = 0.5, more: str = "") -> Recipe:
    line = (
        f"{{type: prune, targets: {targets}, pattern: {pattern}, scope: global, sparsity: {sparsity}, {WINDOW}{more}}}"
    )
    return Recipe.parse(f"version: 1\nmodifiers:\n  - {line}\n")


def trained(model: Any, made: Recipe) -> Any:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    manager = Manager(made).apply(model, optimizer, total_steps=4)
    tokens = torch.arange(16).view(2, 8)
    for _ in range(4):
        manager.on_step_begin()
        model(input_ids=tokens, labels=tokens).loss.backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        optimizer.zero_grad()
        manager.on_step_end()
    manager.finalize()
    return model.eval()


@pytest.mark.parametrize("criterion", ["magnitude", "movement", "random"])
@pytest.mark.parametrize(("targets", "kind"), [("ffn", "neuron"), ("attention", "head")])
def test_every_layer_keeps_as_many(criterion: str, targets: str, kind: str) -> None:
    model = make("LlamaForCausalLM", num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4, head_dim=4)
    with torch.no_grad():  # one layer is worth more: without `equal` it would keep most
        for parameter in model.model.layers[1].parameters():
            parameter *= 5
    free = compacted(trained(model, recipe(targets, f"{{type: {kind}}}", more=", criterion: magnitude")))
    model = make("LlamaForCausalLM", num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4, head_dim=4)
    with torch.no_grad():
        for parameter in model.model.layers[1].parameters():
            parameter *= 5
    even = compacted(
        trained(model, recipe(targets, f"{{type: {kind}, equal: true}}", more=f", criterion: {criterion}"))
    )
    name = "neurons" if kind == "neuron" else "groups"
    uneven, widths = ([width.after for width in found.widths if width.kind == name] for found in (free, even))
    assert len(set(uneven)) > 1
    assert widths == ([32] * 3 if kind == "neuron" else [2] * 3)
    assert even.loading.how == "stock"


@pytest.mark.parametrize("criterion", ["magnitude", "movement", "random"])
def test_kept_widths_are_multiples(criterion: str) -> None:
    sizes = {"num_hidden_layers": 3, "intermediate_size": 60}
    model = make("LlamaForCausalLM", **sizes)
    made = recipe("ffn", "{type: neuron, equal: true, align: 8}", 0.4, more=f", criterion: {criterion}")
    plan = Plan.of(made, model, total_steps=4)  # 0.4 of 60 are 24; of the 36 that are left 32 are a multiple of 8
    assert {weight.nonzeros for weight in plan.modifiers[0].tensors} == {32 * 32}
    found = compacted(trained(model, made))
    assert [width.after for width in found.widths if width.kind == "neurons"] == [32] * 3
    assert found.loading.how == "stock"


def test_multiples_at_every_update_and_nothing_before_the_first() -> None:
    model = make("LlamaForCausalLM", num_hidden_layers=1, intermediate_size=60)
    line = (
        "{type: prune, targets: ffn, pattern: {type: neuron, align: 8}, scope: tensor, "
        "sparsity: {from: 0, to: 0.8}, window: {begin: 0, end: 8, every: 1}}"
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    manager = Manager(Recipe.parse(f"version: 1\nmodifiers:\n  - {line}\n")).apply(model, optimizer, total_steps=9)
    tokens, widths = torch.arange(16).view(2, 8), [60]
    for _ in range(9):
        manager.on_step_begin()
        model(input_ids=tokens, labels=tokens).loss.backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        optimizer.zero_grad()
        manager.on_step_end()
        widths.append(int((model.model.layers[0].mlp.up_proj.weight != 0).any(1).sum()))
    manager.finalize()
    assert widths == sorted(widths, reverse=True)
    assert all(width % 8 == 0 or width == 60 for width in widths)
    assert widths[-1] == 8


@pytest.mark.parametrize(
    ("pattern", "more", "said"),
    [
        ("{type: neuron, align: 8}", "", "add `equal: true`, or write `scope: tensor`"),
        ("{type: neuron, equal: true, align: 0}", "", "1"),
        (
            "{type: neuron, equal: true}",
            ", criterion: soft-movement, finish: threshold",
            "`equal` needs an exact number",
        ),
    ],
)
def test_what_cannot_be_rounded_is_no_recipe(pattern: str, more: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe("ffn", pattern, "{from: 0, to: 0.5}", more=more)


def test_fewer_than_a_multiple_are_no_plan() -> None:
    model = make("LlamaForCausalLM", intermediate_size=60)
    with pytest.raises(PlanError, match="12 of 60 are kept, fewer than `align: 16`"):
        Plan.of(recipe("ffn", "{type: neuron, equal: true, align: 16}", 0.8), model, total_steps=4)
    model = make("BartForConditionalGeneration", decoder_attention_heads=4, encoder_attention_heads=4)
    with pytest.raises(PlanError, match="align"):
        Plan.of(recipe("attention", "{type: head, equal: true, align: 4}", 0.5), model, total_steps=4)


def test_filters_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3))
    with torch.no_grad():
        model[2].weight *= 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    made = recipe("'*'", "{type: filter, equal: true}")
    manager = Manager(made).apply(model, optimizer, total_steps=4)
    for _ in range(4):
        manager.on_step_begin()
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        optimizer.zero_grad()
        manager.on_step_end()
    manager.finalize()
    for conv in (model[0], model[2]):
        dead = (conv.weight.flatten(1) == 0).all(1).sum()
        assert dead == len(conv.weight) // 2


@pytest.mark.parametrize(
    ("kind", "pattern", "said"),
    [
        ("LlamaForCausalLM", "{type: neuron, equal: true}", "stock transformers loads the result"),
        ("LlamaForCausalLM", "neuron", "layers will differ in their numbers of neurons (`equal: true`"),
        ("LlamaForCausalLM", "{type: head, equal: true}", "stock transformers loads the result"),
        (
            "BertForSequenceClassification",
            "{type: head, equal: true}",
            "BertForSequenceClassification cannot say that it has fewer heads",
        ),
        ("BertForSequenceClassification", "{type: neuron, equal: true}", "stock transformers loads the result"),
        ("GPT2LMHeadModel", "{type: head, equal: true}", "cannot say that it has fewer heads"),
        (
            "ViTForImageClassification",
            "{type: head, equal: true}",
            "cannot say that" if OLD else "stock transformers loads the result",
        ),
        ("SwinForImageClassification", "{type: neuron, equal: true}", "layers will differ"),
    ],
)
def test_the_plan_says_who_loads_it(kind: str, pattern: str, said: str) -> None:
    targets = "attention" if "head" in pattern else "ffn"
    plan = Plan.of(recipe(targets, pattern), make(kind), total_steps=10)
    assert any(said in note for note in plan.notes), plan.notes
    assert not any(
        "compact" in note for note in Plan.of(recipe(targets, "unstructured"), make(kind), total_steps=10).notes
    )


def test_tensor_scope_needs_no_word_of_it() -> None:
    made = Recipe.parse(
        f"version: 1\nmodifiers:\n  - {{type: prune, targets: ffn, pattern: neuron, sparsity: 0.5, {WINDOW}}}\n"
    )
    plan = Plan.of(made, make("LlamaForCausalLM"), total_steps=10)
    assert any("stock transformers loads the result" in note for note in plan.notes)


def test_a_model_without_a_configuration_gets_no_note() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    assert not any("compact" in note for note in Plan.of(recipe("ffn", "neuron"), model, total_steps=10).notes)


def test_what_only_some_layers_lose_is_not_said_to_load_everywhere() -> None:
    made = recipe("ffn", "{type: neuron, equal: true}", more=", layers: [0]")
    assert any("layers will differ" in note for note in Plan.of(made, make("LlamaForCausalLM"), total_steps=10).notes)
    two = Recipe.parse(
        "version: 1\nmodifiers:\n"
        f"  - {{type: prune, targets: ffn, layers: [0], pattern: {{type: neuron, equal: true}}, sparsity: 0.5, {WINDOW}}}\n"
        f"  - {{type: prune, targets: ffn, layers: [1], pattern: neuron, scope: global, sparsity: 0.25, {WINDOW}}}\n"
    )
    assert any("layers will differ" in note for note in Plan.of(two, make("LlamaForCausalLM"), total_steps=10).notes)
