"""Adapters merged with the zeros of their base kept; the rest is what PEFT makes of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparsify import HookError, Manager, PlanError, adapters
from tests.adapted import HALF, STEPS, adamw, gpt2, logits, lora, peft, qwen3, qwen3_moe, recipe, step, trained

pytestmark = [pytest.mark.usefixtures("quiet_libraries"), pytest.mark.filterwarnings("default")]
HEADS = "type: prune, pattern: head, targets: attention, sparsity: 0.5, window: {begin: 0, end: 3, every: 1 step}"
CONV1D = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}

CASES: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "every matrix": (qwen3, {"target_modules": "all-linear"}, HALF),
    "rslora": (qwen3, {"use_rslora": True}, HALF),
    "dora": (qwen3, {"use_dora": True}, HALF),
    "tied": (lambda: qwen3(tied=True), {}, HALF),
    "conv1d": (gpt2, CONV1D, HALF),
    "a third of a matrix": (gpt2, CONV1D, f"{HALF}, targets: attention.query"),
    "heads with biases": (gpt2, CONV1D | {"lora_bias": True}, HEADS),
    "embeddings": (qwen3, {"target_modules": ["embed_tokens", "q_proj"]}, f"{HALF}, targets: [default, embeddings]"),
    "a layer of its own": (qwen3, {"modules_to_save": ["down_proj"]}, HALF),
    "experts": (qwen3_moe, {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}, HALF),
}


@pytest.mark.parametrize("name", CASES)
def test_zeros_stay_and_the_rest_is_as_peft_merges_it(name: str) -> None:
    make, fields, text = CASES[name]
    model = lora(make(), **fields)
    manager = trained(model, text)
    pruned = {weight.parameter_name: weight.tensor == 0 for weight in manager.plan.targeted()}
    assert any(mask.any() for mask in pruned.values())
    before = adapters.base_state_dict(model)
    zeros = {name: tensor == 0 for name, tensor in before.items()}
    dense = copy.deepcopy(model).merge_and_unload(safe_merge=True).state_dict()

    merged = adapters.merge(model)

    assert not any("lora" in name or "base_layer" in name for name in merged.state_dict())
    filled = 0
    for name, tensor in merged.state_dict().items():
        if tensor.dim() > 1:
            assert not tensor[zeros[name]].any(), name
        kept = ~zeros[name] if tensor.dim() > 1 else tensor != 0
        assert torch.equal(tensor[kept], dense[name][kept]), name
        filled += int(dense[name][zeros[name]].count_nonzero())
    assert filled, "PEFT alone fills the zeros"


def test_biases_stay_zero_with_their_rows_and_take_what_they_learned_elsewhere() -> None:
    model = lora(gpt2(), **CONV1D, lora_bias=True)
    trained(model, HEADS)
    name = "transformer.h.0.attn.c_attn"
    empty = ~(adapters.base_state_dict(model)[f"{name}.weight"] != 0).any(0)
    bias = adapters.merge(model).state_dict()[f"{name}.bias"]
    assert 0 < int(empty.sum()) < len(empty)
    assert not bias[empty].any()
    assert bias[~empty].all()


def test_a_sparse_base_that_was_loaded(tmp_path: Path) -> None:
    """No manager, no masks: what is zero is the mask."""
    model = lora(qwen3())
    trained(model)
    adapters.save_base(model, tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    here = adapters.merge(model)
    base = type(here).from_pretrained(tmp_path / "base")
    there = adapters.merge(peft.PeftModel.from_pretrained(base, tmp_path / "adapter"))
    assert torch.equal(logits(here), logits(there))
    there.save_pretrained(tmp_path / "merged")
    assert torch.equal(logits(type(here).from_pretrained(tmp_path / "merged")), logits(here))


def test_one_of_two_adapters_and_both() -> None:
    def made() -> Any:
        model = lora(qwen3(), init_lora_weights=False)
        torch.manual_seed(2)
        model.add_adapter("other", peft.LoraConfig(target_modules=["o_proj"], init_lora_weights=False))
        trained(model)
        return model

    before = adapters.base_state_dict(made())
    changed = {
        tuple(names or ()): {
            name.split(".")[4] for name, p in adapters.merge(made(), names).state_dict().items()
            if not torch.equal(p, before[name])
        }
        for names in (None, ["other"], ["default", "other"])
    }  # fmt: skip
    assert changed[()] == {"q_proj", "v_proj"}, "the active one"
    assert changed[("other",)] == {"o_proj"}
    assert changed[("default", "other")] == {"q_proj", "v_proj", "o_proj"}


def test_a_matrix_that_is_all_zero_must_be_explained() -> None:
    def made() -> Any:
        model = qwen3()
        nn.init.zeros_(model.model.layers[0].self_attn.q_proj.weight)
        return lora(model, init_lora_weights=False)

    name = "model.layers.0.self_attn.q_proj.weight"
    model = made()
    with pytest.raises(PlanError, match=f"{name} is all zero under its adapter"):
        adapters.merge(model)
    assert adapters.base_state_dict(model), "nothing was merged"
    assert not adapters.merge(model, empty="keep").state_dict()[name].any()
    assert adapters.merge(made(), empty="fill").state_dict()[name].all()


def test_what_cannot_be_merged_is_refused_before_anything_is() -> None:
    model = lora(qwen3(), init_lora_weights=False)
    optimizer = adamw(model)
    manager = Manager(recipe()).apply(model, optimizer, total_steps=STEPS)
    step(model, optimizer, manager)
    with pytest.raises(HookError, match=r"a manager is still applied to this model: finalize\(\) or detach\(\) it"):
        adapters.merge(model)
    manager.detach()
    for wrong, why in (
        (["defualt"], r"no adapter 'defualt' \(did you mean 'default'"),
        ("default", "a list of adapters"),
    ):
        with pytest.raises(PlanError, match=why):
            adapters.merge(model, wrong)
    with pytest.raises(PlanError, match="has no adapters of PEFT"):
        adapters.merge(qwen3())
    prompts = peft.get_peft_model(qwen3(), peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    with pytest.raises(PlanError, match="adapters of its kind cannot be merged"):
        adapters.merge(prompts)
    with pytest.raises(PlanError, match="q_proj has a bias in its adapter"):
        adapters.merge(lora(qwen3(), lora_bias=True))
    with torch.no_grad():
        model.get_parameter("base_model.model.model.layers.1.self_attn.v_proj.lora_B.default.weight")[0, 0] = torch.nan
    with pytest.raises(PlanError, match=r"v_proj.lora_B.default.weight has values that are not finite"):
        adapters.merge(model)
    model.merge_adapter()
    with pytest.raises(PlanError, match="merged into the base"):
        adapters.merge(model)
