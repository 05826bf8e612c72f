"""The smaller model is its own: nothing in it calls, or is hooked into, the model that went in."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparsify import CompactionError, StateError, compact, load, save
from sparsify.anatomy import read
from sparsify.compaction import compacted
from sparsify.compaction.folder import compact_folder
from sparsify.compaction.running import Runner
from tests.anatomy.declared import CONFIGS, make
from tests.compaction.dead import kill
from tests.majors import OLD

TOKENS = torch.arange(8).view(1, 8)


def still_speaks(model: Any) -> bool:
    """Whether a smaller model computes something when the one it came from is empty."""
    small: Any = compact(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        return bool(small(TOKENS).logits.any())


def test_hooks_go_into_the_smaller_model_alone() -> None:
    model = make("LlamaForCausalLM")
    kill(model)
    small: Any = compact(model)
    small.model.layers[0].register_forward_hook(lambda *_: None)
    assert not model.model.layers[0]._forward_hooks


def test_a_model_compiled_in_place_is_not_what_runs() -> None:
    model = make("LlamaForCausalLM")
    kill(model)
    model.compile(backend="eager")
    assert still_speaks(model)


def test_a_forward_that_was_replaced_is_the_copies_own() -> None:
    model = make("LlamaForCausalLM")
    kill(model)
    model.forward = partial(model.forward)  # as accelerate does
    assert still_speaks(model)


def test_layers_in_a_plain_list_are_the_copies_own() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)
            self.todo = [self.first, nn.ReLU(), self.last]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for module in self.todo:
                x = module(x)
            return x

    model = Net().eval()
    with torch.no_grad():
        model.first.weight[3:9] = 0
        model.first.bias[3:9] = 0
    inputs = torch.randn(3, 8)
    found: Any = compacted(model, example_inputs=inputs)
    assert found.channels == 6
    assert found.model.todo[0] is found.model.first
    assert torch.allclose(found.model(inputs), model(inputs), atol=1e-6)


@pytest.mark.skipif(OLD, reason="DiffLlama is made with transformers 5")
def test_a_layer_stays_whose_number_is_in_what_it_computes() -> None:
    """DiffLlama has a float for each place: without a layer the folder would load with others, silently."""
    transformers = pytest.importorskip("transformers")
    sizes = {**CONFIGS["LlamaForCausalLM"][0], "num_hidden_layers": 4}
    model = transformers.DiffLlamaForCausalLM(transformers.DiffLlamaConfig(**sizes)).eval()
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
        model.model.layers[1].mlp.down_proj.weight.zero_()
    found = compacted(model)
    assert not found.layers
    assert any("lambda_init" in note for note in found.notes), found.notes


def test_one_large_value_does_not_hide_the_others() -> None:
    """Beside a mask of -1e9 every other output might be anything."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = make("BertForSequenceClassification")

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.bert(input_ids).logits
            return torch.cat([scores, torch.full_like(scores[:, :1], -1e9)], 1)

    model = Masked().eval()
    anatomy = read(model)
    assert anatomy is not None
    with torch.no_grad():
        layer = model.bert.bert.encoder.layer[0]
        for module in (layer.attention.output.dense, layer.output.dense):
            module.weight.zero_()
            module.bias.zero_()
    assert not compacted(model, example_inputs=TOKENS).layers  # norms come after it


def test_an_output_that_is_no_number_is_a_difference() -> None:
    class Two(nn.Module):
        def __init__(self, second: float) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([second]))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x * self.weight

    found = Runner(Two(1.0), torch.ones(2)).difference(Two(float("nan")))
    assert not found <= 1e-5


def test_folders_in_the_place_of_the_result_are_not_removed(tmp_path: Path) -> None:
    model = make("LlamaForCausalLM")
    run = tmp_path / "run"
    model.save_pretrained(run)
    model.save_pretrained(run / "checkpoint-5")
    (run / "thesis.txt").write_text("x")
    with pytest.raises(StateError, match="more than a model"):
        compact_folder(run / "checkpoint-5", run)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "config.json").write_text("{}")
    with pytest.raises(StateError, match="more than a model"):
        save(model, tmp_path / "project")
    assert (run / "thesis.txt").exists()
    assert (run / "checkpoint-5" / "config.json").exists()


def test_weights_that_layers_share_unsaid_are_refused_in_a_sentence(tmp_path: Path) -> None:
    model = make("BertForSequenceClassification")
    one, other = model.bert.encoder.layer
    other.output.dense.weight = one.output.dense.weight
    with pytest.raises(StateError, match="cannot be saved by transformers"):
        save(model, tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


def test_a_forward_that_was_replaced_by_a_function_is_refused() -> None:
    model = make("BertForSequenceClassification")
    kill(model)
    old = model.forward
    model.forward = lambda *arguments, **named: old(*arguments, **named)
    with pytest.raises(CompactionError, match="put its own back"):
        compact(model)
    del model.forward
    assert compact(model)


def test_a_scale_that_is_made_of_a_width_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama import modeling_llama

    class Scaled(modeling_llama.LlamaMLP):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.scale = config.intermediate_size**-0.5

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.scale

    monkeypatch.setattr(modeling_llama, "LlamaMLP", Scaled)
    model = make("LlamaForCausalLM")
    kill(model, equal=True)
    found = compacted(model)
    assert found.loading.how == "sparsify"
    folder = save(found.model, tmp_path / "small")
    assert Runner(found.model).difference(load(folder)) == 0
    with pytest.raises(Exception, match="mismatch|per-layer"):
        type(model).from_pretrained(folder)


def test_outputs_that_are_constant_do_not_let_a_normed_layer_go() -> None:
    model = make("BertForSequenceClassification")
    with torch.no_grad():
        model.classifier.weight.zero_()
        layer = model.bert.encoder.layer[0]
        for module in (layer.attention.output.dense, layer.output.dense):
            module.weight.zero_()
            module.bias.zero_()
    found = compacted(model)
    assert not found.layers
    assert any("norms are in the way" in note for note in found.notes)


def test_blocks_that_share_their_weights_share_what_is_folded() -> None:
    model = make("BertForSequenceClassification")
    first, second = model.bert.encoder.layer
    second.intermediate.dense.weight = first.intermediate.dense.weight
    second.intermediate.dense.bias = first.intermediate.dense.bias
    second.output.dense.weight = first.output.dense.weight
    second.output.dense.bias = first.output.dense.bias
    with torch.no_grad():
        first.intermediate.dense.weight[:5] = 0
    found = compacted(model)
    assert [width.after for width in found.widths if width.kind == "neurons"] == [59, 59]
    assert found.difference <= 1e-5


def test_pruned_by_torch_and_not_yet_for_good_is_said() -> None:
    from torch.nn.utils import prune

    model = make("BertForSequenceClassification")
    prune.ln_structured(model.bert.encoder.layer[0].output.dense, "weight", amount=0.5, n=2, dim=1)
    assert any("output.dense" in note for note in compacted(model).notes)


def test_a_rate_of_dropout_that_was_changed_by_hand_is_no_width(tmp_path: Path) -> None:
    model = make("LlamaForCausalLM")
    kill(model, equal=True)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.25
    found = compacted(model)
    assert found.loading.how == "stock"
    assert not (save(found.model, tmp_path / "small") / "sparsify_widths.json").exists()


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")  # what PEFT asks of models
def test_adapters_are_merged_first() -> None:
    from peft import LoraConfig, get_peft_model

    from sparsify.adapters import merge

    model = make("LlamaForCausalLM")
    kill(model, equal=True)
    wrapped: Any = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], r=4))
    with pytest.raises(CompactionError, match=r"sparsify\.adapters\.merge"):
        compact(wrapped)
    assert compacted(merge(wrapped)).loading.how == "stock"
