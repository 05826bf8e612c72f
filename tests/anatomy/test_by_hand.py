"""Models by hand: what is read of them, and that nothing is offered that is not so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import Plan, PlanError
from sparsify.anatomy import read
from sparsify.anatomy.coverage import coverage
from tests.anatomy.by_hand import (
    WIDTH,
    Annotated,
    Block,
    Clicks,
    FeedForward,
    Lecture,
    LoRA,
    Model,
    Towers,
    UNet,
)
from tests.anatomy.declared import ENDS, GROUPED, TEXT
from tests.anatomy.test_inference import anatomy_of
from tests.loop import recipe

LONG = {**TEXT, **ENDS, "attention_window": 4, "max_position_embeddings": 66}


def doubts(model: nn.Module) -> tuple[list[str], list[str]]:
    """Return why heads, and neurons, are not offered, block by block."""
    anatomy = anatomy_of(model)
    return [block.doubt for block in anatomy.attentions], [block.doubt for block in anatomy.feed_forwards]


def names(model: nn.Module, role: str) -> set[str]:
    return {weight.parameter_name for weight in anatomy_of(model).role(role)}


def share(model: nn.Module) -> float:
    anatomy = read(model)
    assert anatomy is not None
    return coverage(model, anatomy, anatomy.role("default")).share


@pytest.mark.parametrize("kind", ["norm over all", "shifted"])
def test_a_setting_that_is_no_number_is_seen(kind: str) -> None:
    """The same class and the same shapes as another model's, of which all heads were verified just before."""
    assert doubts(Model([Block(), Block()]))[0] == ["", ""]
    (first, second), neurons = doubts(Model([Block(kind), Block()]))
    assert first.startswith("not so when it was tried")
    assert (second, neurons) == ("", ["", ""])


def transposed(x: Tensor) -> Tensor:
    """Put neurons in another order: the first and the last stay."""
    return x.unflatten(-1, (8, 8)).transpose(-1, -2).flatten(-2).relu()


def test_neurons_in_another_order_are_none_though_the_last_one_is() -> None:
    heads, neurons = doubts(Model([Block(between=transposed), Block(between=transposed)]))
    assert heads == ["", ""]
    assert all("though neurons should have no effect" in doubt for doubt in neurons)
    with pytest.raises(PlanError, match="its neurons cannot be pruned as wholes, not so when it was tried"):
        Plan.of(recipe(targets="ffn", pattern="neuron"), Model([Block(between=transposed)] * 2), total_steps=99)


def test_what_layers_share_is_there_once() -> None:
    first, second = Block(), Block()
    second.attn = first.attn
    anatomy = anatomy_of(Model([first, second]))
    assert [block.name for block in anatomy.attentions] == ["blocks.0.attn"]
    assert [block.name for block in anatomy.feed_forwards] == ["blocks.0.mlp", "blocks.1.mlp"]
    every = [weight.name for weight in anatomy.role("default")]
    assert len(every) == len(set(every)) == 4 + 2 + 2 + 1, (
        "query, key, value and output; two neurons' matrices for each"
    )


def test_blocks_that_are_used_again_under_another_name() -> None:
    """As in a Perceiver whose layers share their weights."""
    cross, own = Block(), nn.ModuleList([Block(), Block()])
    stages = nn.ModuleList(nn.ModuleList([cross, own]) for _ in range(3))
    model = nn.ModuleDict({"stages": stages, "head": nn.Linear(WIDTH, 2)})
    assert len(anatomy_of(model).attentions) == 3
    assert share(model) == 1


def test_a_part_of_the_model_that_is_called_adapter() -> None:
    model = Model([Block(), Block()], "adapter")
    assert [block.name for block in anatomy_of(model).attentions] == ["adapter.0.attn", "adapter.1.attn"]
    assert (
        coverage(model, read(model), []).total
        == sum(p.numel() for p in model.get_submodule("adapter").parameters() if p.dim() > 1) + 8 * WIDTH
    )


def test_an_adapter_within_a_layer_is_none_of_the_model() -> None:
    model = Model([Block(), Block()])
    wanted, total = names(model, "default"), coverage(model, read(model), []).total
    for block in model.get_submodule("blocks").children():
        assert isinstance(block, Block)
        block.adapters = nn.ModuleDict({"mine": FeedForward()})
        block.mlp.add_module("fc1", LoRA(block.mlp.fc1))
    assert {name.replace(".linear", "") for name in names(model, "default")} == wanted
    assert coverage(model, read(model), []).total == total


def test_transposed_convolutions_are_no_task_head() -> None:
    model = UNet()
    every = {name for name, value in model.named_parameters() if value.dim() > 1}
    assert names(model, "default") == every
    assert not names(model, "task_head")


def test_bags_of_tokens_are_embeddings() -> None:
    model = Clicks()
    assert names(model, "embeddings") == {"bags.0.weight", "bags.1.weight"}
    assert names(model, "default") == {"bottom.weight", "top.weight"}
    assert share(model) == 1
    plan = Plan.of(recipe(targets='"*"'), model, total_steps=99)
    assert plan.coverage is not None
    assert plan.coverage.covered == sum(each.weight.numel() for each in (model.bottom, model.top, model.out))
    assert Plan.of(recipe(targets="embeddings"), model, total_steps=99)


def test_attention_of_torch_in_a_model_of_two_inputs() -> None:
    assert doubts(Towers()) == (["", ""], ["", ""])


def test_four_matrices_in_a_list() -> None:
    model = Model([Annotated.Layer(), Annotated.Layer()])
    assert doubts(model) == (["", ""], ["", ""])
    assert names(model, "attention.output") == {
        "blocks.0.self_attn.linears.3.weight",
        "blocks.1.self_attn.linears.3.weight",
    }


def of_transformers(kind: str, config: dict[str, Any]) -> nn.Module:
    import transformers

    made = getattr(transformers, kind)
    return made(made.config_class(**config))  # type: ignore[no-any-return]


ROLES = {
    "LongformerForSequenceClassification": (LONG, ["query_global", "key_global", "value_global"]),
    "DeepseekV3ForCausalLM": (
        {**GROUPED, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
         "qk_rope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
         "topk_group": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 1},
        ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"],
    ),
    "XLNetForSequenceClassification": (
        {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "vocab_size": 40}, ["q", "k", "v", "o", "r"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROLES)
def test_roles_do_not_need_heads(kind: str) -> None:
    """What is attention by its place has the role, though where its heads lie is not known."""
    config, wanted = ROLES[kind]
    model = of_transformers(kind, config)
    found = names(model, "attention")
    for part in wanted:
        assert len([name for name in found if name.endswith((f".{part}.weight", f"attn.{part}"))]) == 2, part
    assert not any("mlp" in name or "ff" in name or "intermediate" in name for name in found)
    assert Plan.of(recipe(targets="[attention, ffn]"), model, total_steps=99)
    with pytest.raises(PlanError, match=r"heads cannot be pruned as wholes|nothing tells where one head ends"):
        Plan.of(recipe(targets="attention", pattern="head"), model, total_steps=99)


def test_heads_that_are_modules_have_roles() -> None:
    model = Model([Lecture(), Lecture()])
    assert len(names(model, "attention.query")) == len(names(model, "attention.value")) == 8
    with pytest.raises(PlanError, match="nothing tells where one head ends and the next begins in blocks"):
        Plan.of(recipe(targets="attention", pattern="head"), model, total_steps=99)
    assert doubts(model) == ([], ["", ""])


def test_inputs_that_cannot_be_guessed_leave_their_reason() -> None:
    class Picky(Block):
        def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:  # type: ignore[override]
            if scale.shape != (3, 7):
                raise ValueError("scale is 3 × 7")
            return super().forward(x)

    model = Model([Picky(), Picky()])
    assert doubts(model) == (["", ""], ["", ""]), "blocks run alone, whatever their layer wants"
    assert torch.get_default_dtype() == torch.float32


class Raw(nn.Module):
    """A layer of a graph network as it is often written: a matrix of its own."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(rows, columns))


def test_matrices_of_unknown_classes_can_be_named() -> None:
    model = nn.Sequential(Raw(8, 4), Raw(4, 8))
    with pytest.raises(
        PlanError, match=r"name parameters in `targets` \(0.kernel, 1.kernel\), or make their class known"
    ):
        Plan.of(recipe(targets=""), model, total_steps=99)
    assert Plan.of(recipe(targets="0.kernel"), model, total_steps=99)
    with pytest.raises(PlanError, match="covers .*register_layer makes classes of layers known"):
        Plan.of(recipe(targets=""), nn.Sequential(Raw(8, 4), nn.Linear(4, 2), nn.Linear(2, 2)), total_steps=99)


def normed(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(inputs, outputs)), nn.ReLU())


def test_what_computes_weights_is_told_with_what_to_do() -> None:
    model = nn.Sequential(normed(8, 16), normed(16, 16), nn.Linear(16, 4), nn.Linear(4, 2))
    with pytest.raises(
        PlanError, match=r"covers 14 % .*\*\.\* \(is computed by parametrizations .*remove_parametrizations"
    ):
        Plan.of(recipe(targets=""), model, total_steps=99)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")
def test_a_model_by_hand_is_seen_through_peft_s_adapters() -> None:
    """Roles, heads and neurons are those without adapters; what these add is not looked at."""
    peft = pytest.importorskip("peft")
    model = Model([Block(), Block()])
    wanted = {role: len(names(model, role)) for role in anatomy_of(model).roles()}
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["qkv", "fc1", "fc2"], r=2))
    assert {role: len(names(adapted, role)) for role in anatomy_of(adapted).roles()} == wanted
    assert doubts(adapted) == (["", ""], ["", ""])
    assert not any("lora" in name for name in names(adapted, "default"))


class Gated(nn.Module):
    """down(silu(gate(x)) · up(x)), under the shortest names."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(WIDTH, 24), nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def test_a_gate_under_its_bare_name_belongs_to_the_neurons() -> None:
    anatomy = anatomy_of(Model([Gated(), Gated()]))
    assert [(block.doubt, block.gate is not None) for block in anatomy.feed_forwards] == [("", True)] * 2
