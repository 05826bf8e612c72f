"""Folders of smaller models: loaded by stock transformers in a process without us, by us, or refused loudly."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparsify import CompactionError, PlanError, StateError, compact, load, save
from sparsify.compaction import compacted
from sparsify.compaction.folder import compact_folder
from sparsify.compaction.running import Runner
from sparsify.widths import FILE
from tests.anatomy.declared import make
from tests.commands import ENVIRONMENT
from tests.compaction.dead import kill
from tests.majors import OLD

pytestmark = pytest.mark.skipif(OLD, reason="folders of smaller models are tried with transformers 5")

STOCK = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GemmaForCausalLM",
         "Gemma3ForCausalLM", "T5ForConditionalGeneration", "ViTForImageClassification", "Phi3ForCausalLM",
         "MixtralForCausalLM")  # fmt: skip
"""Families whose heads and neurons a configuration can say, where every layer has as many."""

WITHOUT_US = """
import json, sys, torch, transformers
found = {}
for folder, kind in json.loads(sys.argv[1]):
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    inputs = torch.load(folder + "/inputs.pt")
    with torch.no_grad():
        found[folder] = torch.equal(model(**inputs["named"])[0], inputs["output"])
assert not any(name.startswith("sparsify") for name in sys.modules)
print(json.dumps(found))
"""


def test_stock_transformers_loads_them_in_a_process_without_us(tmp_path: Path) -> None:
    made = []
    for kind in STOCK:
        model = make(kind)
        kill(model, equal=True)
        found = compacted(model)
        assert found.loading.how == "stock", (kind, found.loading)
        folder = save(found.model, tmp_path / kind)
        assert not (folder / FILE).exists()
        runner = Runner(found.model)
        named = {
            name: v.float() if torch.is_tensor(v) and v.is_floating_point() else v for name, v in runner.call[1].items()
        }
        with torch.no_grad():
            output = found.model(**named)[0]
        torch.save({"named": named, "output": output}, folder / "inputs.pt")
        made.append([str(folder), kind])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_US, json.dumps(made)], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {folder: True for folder, _ in made}


@pytest.mark.parametrize("kind", ["BertForSequenceClassification", "GPT2LMHeadModel", "BartForConditionalGeneration"])
def test_where_a_configuration_cannot_say_it_stock_loading_fails_loudly(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    kill(model, equal=True)
    found = compacted(model)
    assert found.loading.how == "sparsify"
    assert found.loading.fields, "neurons are said"
    folder = save(found.model, tmp_path / "small")
    with pytest.raises(Exception, match="size mismatch|mismatch"):
        type(model).from_pretrained(folder)
    again = load(folder)
    assert type(again) is type(model)
    assert Runner(found.model).difference(again) == 0
    assert not again.training


def test_half_of_the_heads_do_not_load_as_wider_ones(tmp_path: Path) -> None:
    """BERT reads hidden_size / num_attention_heads: two of four heads said there would be other heads, silently."""
    model = make("BertForSequenceClassification")
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.output.dense.weight[:, :16] = 0
    found = compacted(model)
    assert found.model.config.num_attention_heads == 4
    with pytest.raises(RuntimeError, match="mismatch"):
        type(model).from_pretrained(save(found.model, tmp_path / "small"))


def test_layers_of_different_widths_are_said_in_transformers_own_words(tmp_path: Path) -> None:
    model = make("Qwen3ForCausalLM")
    kill(model)
    folder = save(compact(model), tmp_path / "small")
    said = json.loads((folder / "config.json").read_text())
    assert said["per_layer_config"] == {
        "0": {"intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1},
        "1": {"intermediate_size": 47, "num_attention_heads": 2, "num_key_value_heads": 1},
    } or set(said["per_layer_config"]) <= {"0", "1"}
    with pytest.raises(Exception, match="per-layer attribute|mismatch"):
        type(model).from_pretrained(folder)
    again: Any = load(folder, dtype=torch.float64)
    assert again.dtype == torch.float64
    tokens = torch.arange(8).view(1, 8)
    assert again.generate(tokens, max_new_tokens=4, do_sample=False).shape == (1, 12)
    second = save(again.float(), tmp_path / "again")  # what was loaded is saved like what was made
    assert (second / FILE).read_bytes() == (folder / FILE).read_bytes()
    (folder / FILE).unlink()
    with pytest.raises(PlanError, match=rf"there is no {re.escape(FILE)} beside it"):
        load(folder)


@pytest.mark.parametrize("kind", ["BertForSequenceClassification", "LlamaForCausalLM", "GPT2LMHeadModel"])
def test_what_save_pretrained_writes_of_one_is_refused_with_what_to_do(kind: str, tmp_path: Path) -> None:
    """The Trainer saves so: no widths lie beside the weights, and what its modules keep is in no file."""
    model = make(kind)
    kill(model)
    small = compact(model)
    small.save_pretrained(tmp_path / "small")  # type: ignore[operator]
    with pytest.raises(PlanError, match=r"other shapes than config\.json says.*sparsify\.save\(model, DIR\)"):
        load(tmp_path / "small")
    with pytest.raises(Exception, match="mismatch"):
        type(model).from_pretrained(tmp_path / "small")
    assert Runner(small).difference(load(save(small, tmp_path / "again"))) == 0


def test_shards(tmp_path: Path) -> None:
    """Large models lie in several files, with an index: they are made smaller, saved and loaded like those in one."""
    model = make("BertForSequenceClassification")
    kill(model)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert not (tmp_path / "many" / "model.safetensors").exists()
    small = [compact_folder(tmp_path / name, tmp_path / f"{name}-small").model for name in ("one", "many")]
    assert not list((tmp_path / "many-small").glob("model-0*"))
    again = [load(tmp_path / f"{name}-small") for name in ("one", "many")]
    again[0].save_pretrained(tmp_path / "shards", max_shard_size="10KB")  # type: ignore[operator]
    (tmp_path / "shards" / FILE).write_bytes((tmp_path / "one-small" / FILE).read_bytes())
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    for other in (*small[1:], *again, load(tmp_path / "shards")):
        assert Runner(small[0]).difference(other) == 0


def test_what_is_no_model_of_transformers(tmp_path: Path) -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Flatten(),
            nn.Linear(8 * 16, 5),
        ).eval()  # fmt: skip

    model: Any = net()
    with torch.no_grad():
        for place in (1, 4):
            for tensor in (
                model[0].weight,
                model[0].bias,
                model[1].weight,
                model[1].bias,
                model[3].weight,
                model[3].bias,
            ):
                tensor[place] = 0
    inputs = torch.randn(2, 3, 8, 8)
    found = compacted(model, example_inputs=inputs)
    assert found.channels == 2
    assert found.loading.how == "python"
    folder = save(found.model, tmp_path / "net")
    again: Any = load(folder, net())
    assert torch.allclose(again(inputs), model(inputs), atol=1e-6)
    assert again[3].groups == 6
    assert again[1].num_features == 6
    with pytest.raises(StateError, match="is no number that the model keeps"):
        load(folder, nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(PlanError, match=r"no config\.json"):
        load(folder)


def test_files_that_lie(tmp_path: Path) -> None:
    model = make("BertForSequenceClassification")
    kill(model, equal=True)
    folder = save(compact(model), tmp_path / "small")
    right = json.loads((folder / FILE).read_text())
    name = next(iter(right["tensors"]))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({**right, "format": 3}, "this version reads 2"),
        ({**right, "more": 1}, "is not known here"),
        ({**right, "tensors": {name: [10**9, 32]}}, "cannot become"),
        ({**right, "tensors": {name: [-1, 32]}}, "expected a list of sizes"),
        ({**right, "tensors": {"nothing.weight": [1, 1]}}, "no module"),
        ({**right, "attributes": {"bert": {"forward": 3}}}, "is no number that the model keeps"),
        ({**right, "attributes": {"bert": {"training": 3}}}, "is no number that the model keeps"),
        ({**right, "attributes": {"bert": {"__class__": 3}}}, "is no number that the model keeps"),
        ({**right, "attributes": {"bert": {"x": "y"}}}, "expected"),
        ({**right, "experts": {"bert": {"of": 4, "kept": [0]}}}, "not told the numbers"),
        ({**right, "experts": {"nowhere": {"of": 4, "kept": [0]}}}, "no module"),
        ({**right, "experts": {"bert": {"of": 4}}}, "is missing"),
    ]
    for data, reason in wrong:
        (folder / FILE).write_text(json.dumps(data))
        with pytest.raises((StateError, PlanError), match=reason):
            load(folder)
    (folder / FILE).write_text("{")
    with pytest.raises(StateError, match="cannot be read"):
        load(folder)


def test_folders_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    model = make("BertForSequenceClassification")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    with pytest.raises(StateError, match="something else"):
        save(model, tmp_path / "letters")
    assert (tmp_path / "letters" / "dear.txt").read_text() == "x"
    save(model, tmp_path / "model")
    save(model, tmp_path / "model")
    assert load(tmp_path / "model")
    with pytest.raises(StateError, match="does not go with a model"):
        load(tmp_path / "model", model, dtype=torch.float32)
    with pytest.raises(CompactionError):
        compact(nn.Sequential())


def test_the_loader_of_the_documentation_needs_nothing_of_ours(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "compact.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def load_small" in block)
    code = code[: code.index("\n\n\nassert")]
    assert len([line for line in code[code.index("def load_small") :].splitlines() if line.strip()]) <= 30
    made = []
    for kind in ("BertForSequenceClassification", "Qwen3ForCausalLM", "GPT2LMHeadModel", "SwinForImageClassification"):
        model = make(kind)
        kill(model)
        small = compact(model)
        made.append((str(save(small, tmp_path / kind)), kind, sum(p.numel() for p in small.parameters())))
    program = code + (
        "\n\nimport sys\nfor folder, kind, count in json.loads(sys.argv[1]):\n"
        "    found = load_small(folder, getattr(transformers, kind))\n"
        "    assert sum(p.numel() for p in found.parameters()) == count\n"
        "    torch.save(found.state_dict(), folder + '/found.pt')\n"
        "assert not any(name.startswith('sparsify') for name in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(made)], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for folder, _, _ in made:
        ours = load(folder).state_dict()
        theirs = torch.load(folder + "/found.pt")
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
