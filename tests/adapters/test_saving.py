"""A pruned base under adapters is saved as the model that it was, and both load again in stock libraries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from sparsify import PlanError, StateError, adapters
from tests.adapted import HALF, gpt2, logits, lora, peft, qwen3, qwen3_moe, trained

pytestmark = [pytest.mark.usefixtures("quiet_libraries"), pytest.mark.filterwarnings("default")]
Make = Callable[[], Any]

CASES: dict[str, tuple[Make, dict[str, Any]]] = {
    "every matrix": (qwen3, {"target_modules": "all-linear"}),
    "tied": (lambda: qwen3(tied=True), {}),
    "dora": (qwen3, {"use_dora": True}),
    "conv1d": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "embeddings": (qwen3, {"target_modules": ["embed_tokens", "q_proj"]}),
    "a head of its own": (qwen3, {"modules_to_save": ["lm_head"]}),
    "a layer of its own": (qwen3, {"modules_to_save": ["down_proj"]}),
    "tokens": (qwen3, {"trainable_token_indices": [3, 5]}),
    "experts": (qwen3_moe, {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}),
    "pissa": (qwen3, {"init_lora_weights": "pissa"}),
    "olora": (qwen3, {"init_lora_weights": "olora"}),
}


@pytest.mark.parametrize("name", CASES)
def test_base_and_adapter_load_again(name: str, tmp_path: Path) -> None:
    make, fields = CASES[name]
    model = lora(make(), **fields)
    trained(model)
    assert adapters.save_base(model, tmp_path / "base") == tmp_path / "base"
    model.save_pretrained(tmp_path / "adapter")

    base = type(model.get_base_model()).from_pretrained(tmp_path / "base")
    wanted = adapters.base_state_dict(model)
    assert set(wanted) == set(base.state_dict())
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in base.state_dict().items())
    with model.disable_adapter():
        assert torch.equal(logits(base), logits(model))
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.equal(logits(loaded), logits(model))
    named = peft.PeftConfig.from_pretrained(tmp_path / "adapter").base_model_name_or_path
    assert named == str((tmp_path / "base").resolve())


def test_dropped_layers_are_in_the_base(tmp_path: Path) -> None:
    model = lora(qwen3())
    trained(model, "type: layer_drop, keep: [1]")
    model.save_pretrained(tmp_path / "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(adapters.save_base(model, tmp_path / "base"))
    assert base.config.num_hidden_layers == 1
    assert torch.equal(logits(peft.PeftModel.from_pretrained(base, tmp_path / "adapter")), logits(model))


def test_an_older_base_is_replaced_whole(tmp_path: Path) -> None:
    model, folder = lora(qwen3()), tmp_path / "base"
    adapters.save_base(model, folder)
    (folder / "model-00001-of-00002.safetensors").write_text("of another model")
    adapters.save_base(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    model, folder = lora(qwen3()), tmp_path / "base"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(StateError, match="base holds something that is no model"):
        adapters.save_base(model, folder)
    assert (folder / "notes.txt").read_text() == "mine"
    qwen3().save_pretrained(tmp_path / "dense")
    model = lora(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "dense"))
    with pytest.raises(
        StateError, match="dense is where the base was loaded from, and the pruned one would replace it"
    ):
        adapters.save_base(model, tmp_path / "dense")


def test_a_model_that_knows_of_adapters_itself(tmp_path: Path) -> None:
    """transformers' own `add_adapter` marks the model, which is then saved as an adapter."""
    model = qwen3()
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["q_proj"]), model)
    model._hf_peft_config_loaded = True
    base = transformers.AutoModelForCausalLM.from_pretrained(adapters.save_base(model, tmp_path / "base"))
    assert torch.equal(base.state_dict()["model.layers.0.self_attn.q_proj.weight"],
                       model.model.layers[0].self_attn.q_proj.base_layer.weight)  # fmt: skip
    assert model._hf_peft_config_loaded is True


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="has no adapters of PEFT"):
        adapters.save_base(qwen3(), tmp_path / "base")
    model = lora(qwen3())
    model.merge_adapter()
    with pytest.raises(PlanError, match=r"q_proj: its adapter is merged into the base: call unmerge_adapter\(\) first"):
        adapters.save_base(model, tmp_path / "base")
    plain = lora(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), target_modules=["0"])
    with pytest.raises(PlanError, match=r"has no save_pretrained: save sparsify.adapters.base_state_dict\(model\)"):
        adapters.save_base(plain, tmp_path / "base")
    assert list(adapters.base_state_dict(plain)) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert list(tmp_path.iterdir()) == []


def test_the_plan_says_what_is_saved_where() -> None:
    manager = trained(lora(qwen3()))
    (note,) = manager.plan.notes
    assert note.startswith("prune: what is changed lies under adapters, and save_pretrained() saves adapters alone")
    assert "output_dir/base" in note
    assert adapters.alters_base(manager.plan, manager.model)
    of_adapters = trained(lora(qwen3()), f"{HALF}, targets: '*lora_A*'")
    assert of_adapters.plan.notes == ()
    assert not adapters.alters_base(of_adapters.plan, of_adapters.model)
    own_copy = trained(lora(qwen3(), modules_to_save=["lm_head"]), f"{HALF}, targets: '*lm_head.modules_to_save*'")
    assert own_copy.plan.notes == (), "it is saved with the adapter"
