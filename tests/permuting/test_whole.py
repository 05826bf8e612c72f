"""Models whose channels have another order compute the same, and N:M keeps more of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsify
from sparsify import CompactionError, Manager, Recipe
from sparsify.anatomy import read
from sparsify.anatomy.samples import samples
from sparsify.permuting import permute_for_n_m, whole
from sparsify.structure import orders
from tests.anatomy.declared import make
from tests.loop import masks_of

FAMILIES = (
    "BertForSequenceClassification", "LlamaForCausalLM", "GPT2LMHeadModel", "ViTForImageClassification",
    "GPTNeoXForCausalLM", "GptOssForCausalLM", "Phi3ForCausalLM", "T5ForConditionalGeneration", "MixtralForCausalLM",
    "Dinov2ForImageClassification", "BartForConditionalGeneration", "AlbertForSequenceClassification",
)  # fmt: skip
FULL = {"LlamaForCausalLM": 4, "GPT2LMHeadModel": 4, "BertForSequenceClassification": 4, "GptOssForCausalLM": 10}
"""How many blocks are put in order."""


def outputs(model: Any) -> Tensor:
    """Return what a model makes of the first input that it takes."""
    for args, named in samples(model):
        try:
            with torch.no_grad():
                found = model(*args, **named)
        except Exception:  # an input that is not for it
            continue
        return next(value for value in found.values() if isinstance(value, Tensor) and value.is_floating_point())
    raise AssertionError("no input fits")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_model_computes_the_same_and_more_is_kept(kind: str) -> None:
    model = make(kind)
    if kind not in ("GptOssForCausalLM", "MixtralForCausalLM"):  # whose experts have no kernel in float64
        model = model.double()
    names = {name: id(parameter) for name, parameter in model.named_parameters()}
    before, weights = outputs(model), {name: p.detach().clone() for name, p in model.named_parameters()}
    found = permute_for_n_m(model, seconds=60)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == names
    assert (outputs(model) - before).abs().max() <= 1e-5 * before.abs().max()
    assert len(found.blocks) == FULL.get(kind, len(found.blocks))
    assert found.blocks
    assert not found.notes
    for block in found.blocks:
        assert block.after > block.before
        assert block.moved
        assert not torch.equal(
            weights[block.weight.partition("[")[0]], model.get_parameter(block.weight.partition("[")[0])
        )
    assert found.total.shares[1] > found.total.shares[0] + 0.01
    assert found.model.after - found.model.before == pytest.approx(found.total.after - found.total.before, rel=1e-6)


def test_biases_rows_and_grouped_heads_follow() -> None:
    """The same by hand, on one block of each kind of Llama and BERT."""
    model = make("LlamaForCausalLM")
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = permute_for_n_m(model)
    for block in found.blocks:
        if block.block.endswith("self_attn"):
            one, two = (torch.tensor(order) for order in block.orders)  # two groups of two query heads each, of 8
            columns = torch.cat([one, 8 + one, 16 + two, 24 + two])
            name = f"{block.block}.o_proj.weight"
            assert torch.equal(model.get_parameter(name), first[name][:, columns])
            rows = f"{block.block}.v_proj.weight"
            assert torch.equal(model.get_parameter(rows), first[rows][torch.cat([one, 8 + two])])
            for same in ("q_proj", "k_proj"):
                assert torch.equal(
                    model.get_parameter(f"{block.block}.{same}.weight"), first[f"{block.block}.{same}.weight"]
                )
    bert = make("BertForSequenceClassification")
    first = {name: p.detach().clone() for name, p in bert.named_parameters()}
    found = permute_for_n_m(bert)
    block = next(each for each in found.blocks if each.weight.endswith("layer.0.output.dense.weight"))
    order = torch.tensor(block.orders[0])
    up = "bert.encoder.layer.0.intermediate.dense"
    assert torch.equal(bert.get_parameter(f"{up}.weight"), first[f"{up}.weight"][order])
    assert torch.equal(bert.get_parameter(f"{up}.bias"), first[f"{up}.bias"][order])


@pytest.mark.parametrize("pattern", ["2:4", "1:4"])
def test_what_is_reported_is_what_masks_keep(pattern: str) -> None:
    text = (
        f'version: 1\nmodifiers:\n  - {{type: prune, pattern: "{pattern}", window: {{begin: 0}}, '
        f"sparsity: {{from: 0, to: {0.5 if pattern == '2:4' else 0.75}, curve: one-shot}}}}\n"
    )

    def by_masks(model: nn.Module) -> float:
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        manager = Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=1)
        manager.on_step_begin()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
        return sum(float((weights[name].abs() * mask).double().sum()) for name, mask in masks_of(manager).items())

    model = make("BertForSequenceClassification")
    n, m = map(int, pattern.split(":"))
    found = permute_for_n_m(model, n, m)
    assert by_masks(make("BertForSequenceClassification")) == pytest.approx(found.model.before, rel=1e-5)
    assert by_masks(model) == pytest.approx(found.model.after, rel=1e-5)


def test_what_is_already_two_of_four_stays_as_it_is() -> None:
    model = make("ViTForImageClassification")
    anatomy = read(model)
    assert anatomy is not None
    for block in orders.blocks(anatomy):
        orders.reader(block).tensor[:, torch.arange(orders.reader(block).geometry.columns) % 4 < 2] = 0
    found = permute_for_n_m(model)
    assert all(block.moved == 0 for block in found.blocks)
    assert found.total.shares == (1.0, 1.0)


def test_kinds_of_blocks_that_depend_on_their_order_stay_with_a_reason() -> None:
    model = make("SegformerForImageClassification")  # a convolution stands between up and down
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = permute_for_n_m(model)
    (note,) = found.notes
    assert "SegformerLayer mlp stays as it is (4 of them): in another order its outputs would differ" in note
    assert len(found.blocks) == 4
    assert all(torch.equal(p, first[name]) for name, p in model.named_parameters() if ".mlp." in name)
    odd = make("BertForSequenceClassification", intermediate_size=62)
    found = permute_for_n_m(odd)
    assert found.notes == tuple(
        f"bert.encoder.layer.{i}.ffn stays as it is: 4 does not divide 62 neurons" for i in (0, 1)
    )


def test_rotated_values_are_noticed() -> None:
    found = permute_for_n_m(make("RoFormerForSequenceClassification", rotary_value=True))
    assert len(found.blocks) == 2
    assert "attention" in found.notes[0]
    assert "in another order" in found.notes[0]


def test_seeds_and_the_state_of_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.get_rng_state()
    one, two = (permute_for_n_m(make("ViTForImageClassification")).to_dict() for _ in range(2))
    torch.set_rng_state(state)
    permute_for_n_m(model := make("ViTForImageClassification"))
    after = torch.get_rng_state()
    make("ViTForImageClassification")
    assert torch.equal(after, torch.get_rng_state()), "the global generator is not used"
    assert {**one, "seconds": 0} == {**two, "seconds": 0}
    again = permute_for_n_m(model)
    assert again.total.before == pytest.approx(one["total"]["after"])
    short = permute_for_n_m(make("ViTForImageClassification"), seconds=1e-6)
    assert not short.in_time
    assert short.total.before == short.total.after


def test_models_that_cannot_be_permuted_are_one_error_and_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("ViTForImageClassification")
    for named, reason in (({"n": 4}, "no pattern"), ({"n": 0}, "no pattern"), ({"seconds": 0.0}, "seconds is 0.0")):
        with pytest.raises(CompactionError, match=reason):
            permute_for_n_m(model, **named)
    with pytest.raises(CompactionError, match="no attention or feed-forward block"):
        permute_for_n_m(nn.Sequential(nn.Linear(8, 8)))
    with pytest.raises(CompactionError, match="meta device"):
        permute_for_n_m(make("ViTForImageClassification").to("meta"))
    text = "version: 1\nmodifiers:\n  - {type: prune, sparsity: 0.5}\n"
    manager = Manager(Recipe.parse(text)).apply(model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=10)
    with pytest.raises(CompactionError, match="a manager is still applied"):
        permute_for_n_m(model)
    manager.detach()
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    put = orders.put

    def forget(block: orders.Block, found: list[Tensor]) -> None:
        """Put a block in order, but not the bias of up."""
        bias = getattr(block, "up", block).bias() if isinstance(block, orders.FeedForward) else None
        kept = None if bias is None else bias.tensor.clone()
        put(block, found)
        if bias is not None:
            bias.tensor.copy_(kept)

    monkeypatch.setattr(whole, "_movable", lambda base, anatomy, *_: (orders.blocks(anatomy), []))
    monkeypatch.setattr(orders, "put", forget)
    with pytest.raises(CompactionError, match="outputs differ by"):
        sparsify.permute_for_n_m(model)
    assert all(torch.equal(p, first[name]) for name, p in model.named_parameters())
