"""Every way in which heads, neurons and layers die: what is exact leaves, what is not stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsify import CompactionError, Manager, Recipe, compact
from sparsify.anatomy import read
from sparsify.compaction import Compacted, compacted
from sparsify.compaction.running import Runner
from tests.anatomy.declared import make
from tests.compaction.dead import empty_columns, empty_rows, kill, kill_heads, kill_neurons, lines


def blocks(model: nn.Module) -> tuple[Any, Any]:
    """Return the first attention and the first feed-forward block."""
    anatomy = read(model)
    assert anatomy is not None
    return anatomy.attentions[0], anatomy.feed_forwards[0]


def first(found: Compacted, kind: str) -> tuple[int, int]:
    width = next(width for width in found.widths if width.kind == kind)
    return width.before, width.after


HEAD = torch.tensor([1])
SOME = torch.tensor([0, 3, 63])

# name: (what is emptied, heads left of 4, neurons left of 64); `field/nn_pruning.md` §2 and more
WAYS: dict[str, tuple[Callable[[Any, Any], None], int, int]] = {
    "value rows and bias": (lambda a, _: empty_rows(a.value, lines(HEAD, 8)), 3, 64),
    "value rows, bias kept": (lambda a, _: empty_rows(a.value, lines(HEAD, 8), bias=False), 3, 64),
    "query rows and bias: attention is even, not absent": (lambda a, _: empty_rows(a.query, lines(HEAD, 8)), 4, 64),
    "key rows and bias": (lambda a, _: empty_rows(a.key, lines(HEAD, 8)), 4, 64),
    "output columns": (lambda a, _: empty_columns(a.output, lines(HEAD, 8)), 3, 64),
    "half of a head's value rows": (lambda a, _: empty_rows(a.value, torch.arange(4)), 4, 64),
    "up rows, bias kept": (lambda _, f: empty_rows(f.up, SOME, bias=False), 4, 61),
    "up rows and bias": (lambda _, f: empty_rows(f.up, SOME), 4, 61),
    "down columns": (lambda _, f: empty_columns(f.down, SOME), 4, 61),
    "all heads": (lambda a, _: empty_columns(a.output, torch.arange(32)), 0, 64),
    "all neurons": (lambda _, f: empty_columns(f.down, torch.arange(64)), 4, 0),
}


@pytest.mark.parametrize("way", WAYS)
def test_bert(way: str) -> None:
    empty, heads, neurons = WAYS[way]
    model = make("BertForSequenceClassification")
    with torch.no_grad():
        empty(*blocks(model))
    found = compacted(model)
    assert (first(found, "heads"), first(found, "neurons")) == ((4, heads), (64, neurons)), found.notes
    assert found.difference <= 1e-5


def test_a_gate_without_rows_is_dead_but_a_bias_of_up_lives_on() -> None:
    model = make("GPT2LMHeadModel")  # not gated: its way is above
    assert compacted(model).parameters[0] == compacted(model).parameters[1]
    gated = make("LlamaForCausalLM", mlp_bias=True)
    _, block = blocks(gated)
    with torch.no_grad():
        empty_rows(block.gate, torch.tensor([0]))  # act(0) · up = 0
        empty_rows(block.up, torch.tensor([1]))  # act(gate) · 0 = 0
        empty_rows(block.up, torch.tensor([2]), bias=False)  # act(gate) · bias: it changes with the input
        empty_rows(block.up, torch.tensor([3]), bias=False)
        empty_rows(block.gate, torch.tensor([3]), bias=False)  # act(bias) · bias: constant
        empty_rows(block.gate, torch.tensor([4]), bias=False)  # act(bias) · up: it changes with the input
    found = compacted(gated)
    assert first(found, "neurons") == (64, 61)
    assert any("scaled by the gate" in note for note in found.notes)
    assert any("changes with the input" in note for note in found.notes)


def test_a_constant_without_a_bias_to_go_to_stays() -> None:
    model = make("Qwen2ForCausalLM")  # biases of query, key and value, and none of the output
    attention, _ = blocks(model)
    with torch.no_grad():
        empty_rows(attention.value, lines(HEAD, 8), bias=False)
    found = compacted(model)
    assert first(found, "groups") == (2, 2)
    assert any("no bias to add it to" in note for note in found.notes)


def test_query_heads_leave_in_equal_numbers() -> None:
    model = make("LlamaForCausalLM", num_attention_heads=8, num_key_value_heads=2, head_dim=4)
    attention, _ = blocks(model)
    with torch.no_grad():  # two of four in the first group, one in the second: one of each may leave
        empty_columns(attention.output, lines(torch.tensor([0, 1, 5]), 4))
    found = compacted(model)
    assert first(found, "heads") == (8, 6)
    assert found.model.model.layers[0].self_attn.num_key_value_groups == 3
    assert found.model.model.layers[0].self_attn.k_proj.weight.shape == (8, 32)
    assert found.difference <= 1e-5


def test_a_decoder_keeps_a_head() -> None:
    model = make("LlamaForCausalLM")
    attention, _ = blocks(model)
    with torch.no_grad():
        empty_columns(attention.output, torch.arange(32))
    assert first(compacted(model), "heads")[1] >= 1


def test_equal_widths_and_multiples() -> None:
    model = make("LlamaForCausalLM")
    anatomy = read(model)
    assert anatomy is not None
    for block, gone in zip(anatomy.feed_forwards, (10, 30), strict=True):
        kill_neurons(block, torch.arange(gone))
    uneven = compacted(model)
    assert [width.after for width in uneven.widths if width.kind == "neurons"] == [54, 34]
    assert uneven.loading.how == "sparsify"
    assert uneven.loading.per_layer == {0: {"intermediate_size": 54}, 1: {"intermediate_size": 34}}
    even = compacted(model, equal=True)
    assert [width.after for width in even.widths if width.kind == "neurons"] == [54, 54]
    assert even.loading.how == "stock"
    assert even.loading.fields == {"intermediate_size": (64, 54)}
    assert any("every layer is to have as many" in note for note in even.notes)
    aligned = compacted(model, align=8)
    assert [width.after for width in aligned.widths if width.kind == "neurons"] == [56, 40]


def test_empty_layers_leave_where_nothing_is_normed_after_them() -> None:
    model = make("LlamaForCausalLM", num_hidden_layers=4)
    with torch.no_grad():
        for number in (1, 2):
            model.model.layers[number].self_attn.o_proj.weight.zero_()
            model.model.layers[number].mlp.down_proj.weight.zero_()
    found = compacted(model)
    assert found.layers == ("model.layers.1", "model.layers.2")
    assert len(found.model.model.layers) == found.model.config.num_hidden_layers == 2
    assert found.loading.how == "stock"
    tokens = torch.arange(6).view(1, 6)
    mine, theirs = (each.generate(tokens, max_new_tokens=5, do_sample=False) for each in (found.model, model))
    assert torch.equal(mine, theirs)
    post = make("BertForSequenceClassification")
    with torch.no_grad():
        layer = post.bert.encoder.layer[0]
        for module in (layer.attention.output.dense, layer.output.dense):
            module.weight.zero_()
            module.bias.zero_()
    kept = compacted(post)
    assert not kept.layers
    assert any("norms are in the way" in note for note in kept.notes)


@pytest.mark.parametrize("kind", ["LlamaForCausalLM", "GPT2LMHeadModel", "GPTNeoXForCausalLM", "Gemma3ForCausalLM",
                                  "T5ForConditionalGeneration", "BartForConditionalGeneration"])  # fmt: skip
def test_generation_with_a_cache(kind: str) -> None:
    model = make(kind)
    kill(model)
    small = compact(model)
    tokens = torch.arange(2, 10).view(2, 4)
    for cache in (True, False):
        made = [each.generate(tokens, max_new_tokens=6, do_sample=False, use_cache=cache) for each in (small, model)]
        assert torch.equal(*made)


def test_training_goes_on() -> None:
    model = make("BertForSequenceClassification")
    kill(model)
    small = compact(model).train()
    assert small.training
    optimizer = torch.optim.AdamW(small.parameters(), lr=1e-2)
    inputs = {"input_ids": torch.arange(16).view(2, 8), "labels": torch.tensor([0, 1])}
    losses = []
    for _ in range(5):
        loss = small(**inputs).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]


@settings(max_examples=25)
@given(data=st.data())
def test_whatever_dies(data: st.DataObject) -> None:
    kind = data.draw(
        st.sampled_from(["BertForSequenceClassification", "LlamaForCausalLM", "BartForConditionalGeneration"])
    )
    model = make(kind)
    anatomy = read(model)
    assert anatomy is not None
    for block in anatomy.attentions:
        dead = data.draw(st.sets(st.integers(0, block.groups - 1)))
        kill_heads(block, torch.tensor(sorted(dead), dtype=torch.int64))
    for ffn in anatomy.feed_forwards:
        kill_neurons(ffn, torch.tensor(sorted(data.draw(st.sets(st.integers(0, 63)))), dtype=torch.int64))
    found = compacted(model)
    assert found.difference <= 1e-5
    for width in found.widths:
        assert 0 <= width.after <= width.before


def test_after_a_recipe_and_not_before_its_end() -> None:
    model = make("BertForSequenceClassification")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    recipe = Recipe.parse(
        "version: 1\nmodifiers:\n"
        "  - {type: prune, targets: attention, pattern: head, sparsity: 0.5, window: {begin: 0, end: 3, every: 1}}\n"
        "  - {type: prune, targets: ffn, pattern: neuron, sparsity: 0.5, window: {begin: 0, end: 3, every: 1}}\n"
    )
    manager = Manager(recipe).apply(model, optimizer, total_steps=4)
    with pytest.raises(CompactionError, match=r"finalize\(\) first"):
        compact(model)
    inputs = {"input_ids": torch.arange(16).view(2, 8), "labels": torch.tensor([0, 1])}
    for _ in range(4):
        manager.on_step_begin()
        model(**inputs).loss.backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        optimizer.zero_grad()
        manager.on_step_end()
    manager.finalize()
    found = compacted(model.eval())
    assert first(found, "heads")[0] == 4
    assert sum(width.after for width in found.widths if width.kind == "heads") == 4
    assert sum(width.after for width in found.widths if width.kind == "neurons") == 64


def test_what_cannot_be_done_is_said() -> None:
    model = make("BertForSequenceClassification")
    with pytest.raises(CompactionError, match="multiples of 1 or more"):
        compact(model, align=0)
    with pytest.raises(CompactionError, match="between 0 and 1"):
        compact(model, tolerance=2)
    with torch.device("meta"):
        empty = type(model)(model.config)
    with pytest.raises(CompactionError, match="has no weights"):
        compact(empty)

    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, secret: str) -> torch.Tensor:
            assert secret == "told"
            return self.layer(x)

    with pytest.raises(CompactionError, match="inputs could not be guessed"):
        compact(Strange())
    assert compact(Strange(), example_inputs=(torch.randn(2, 4), "told"))
    with pytest.raises(CompactionError, match="cannot be run on example_inputs"):
        compact(Strange(), example_inputs=(torch.randn(2, 5), "told"))


def test_the_gate_sees_what_is_not_the_same() -> None:
    model = make("BertForSequenceClassification")
    runner = Runner(model)
    other = make("BertForSequenceClassification")
    assert runner.difference(other) == 0
    with torch.no_grad():
        other.bert.encoder.layer[1].output.dense.weight[3, 5] += 1e-3
    assert runner.difference(other) > 1e-5


def test_equal_means_as_many_groups_and_as_many_queries() -> None:
    model = make("LlamaForCausalLM", num_attention_heads=8, num_key_value_heads=2, head_dim=4)
    anatomy = read(model)
    assert anatomy is not None
    first_block, second_block = anatomy.attentions
    with torch.no_grad():
        empty_columns(first_block.output, lines(torch.tensor([1, 2, 3, 5, 6, 7]), 4))  # two groups of one
        empty_columns(second_block.output, lines(torch.tensor([4, 5, 6, 7]), 4))  # one group of four
    found = compacted(model, equal=True)
    assert [width.after for width in found.widths if width.kind != "neurons"] in ([8, 8], [2, 2])
    assert found.loading.how == "stock"
