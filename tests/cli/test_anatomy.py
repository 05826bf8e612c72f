"""`sparsify anatomy`: what a model is made of, and what was inferred as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sparsify.anatomy import Architecture
from sparsify.cli.app import app

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with nothing but a configuration."""
    import transformers

    from tests.anatomy.test_inference import GROUPED, MODELS

    found = {}
    for name, (kind, config) in {
        **MODELS,
        "olmo2": ("Olmo2ForCausalLM", GROUPED),
        "llama": ("LlamaForCausalLM", GROUPED),
    }.items():
        made = getattr(transformers, kind).config_class(**config)
        made.architectures = [kind]
        found[name] = tmp_path_factory.mktemp(name)
        made.save_pretrained(found[name])
    return found


def test_a_table_of_layers_roles_and_coverage(folders: dict[str, Path]) -> None:
    done = RUNNER.invoke(app, ["anatomy", str(folders["gpt-neox"])])
    assert done.exit_code == 0, done.output
    assert "GPTNeoXLayer (inferred)" in done.output
    assert "gpt_neox.layers" in done.output
    assert "attention.output" in done.output
    assert "targets: default covers 100 % of the 16,384 matrix weights" in done.output


def test_what_is_not_offered_is_said(folders: dict[str, Path]) -> None:
    done = RUNNER.invoke(app, ["anatomy", str(folders["olmo2"])])
    assert (
        "not offered: heads of model.layers.0.self_attn, model.layers.1.self_attn: not so when it was tried"
        in done.output
    )
    found = json.loads(RUNNER.invoke(app, ["anatomy", str(folders["olmo2"]), "--json"]).output)
    assert found["doubts"][0]["blocks"] == ["model.layers.0.self_attn", "model.layers.1.self_attn"]
    assert found["stacks"][0] | {"weights": 0} == {
        "name": "model.layers", "family": "Olmo2DecoderLayer", "inferred": True, "layers": 2, "heads": "4 in 2 groups",
        "neurons": "64", "weights": 0,
    }  # fmt: skip
    assert {role["role"] for role in found["roles"]} >= {"default", "ffn.gate", "task_head"}


def test_a_family_file_declares_what_was_inferred(folders: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "family.py"
    done = RUNNER.invoke(app, ["anatomy", str(folders["phi3"]), "--family", str(path)])
    assert done.exit_code == 0, done.output
    made: list[Architecture] = []
    names: dict[str, Any] = {}
    text = path.read_text()
    exec(text.replace(", register\n", "\n"), names | {"register": made.append})
    (family,) = made
    assert family.layers == ("Phi3DecoderLayer",)
    assert (family.attentions[0].fused, family.attentions[0].packing) == ("self_attn.qkv_proj", "blocks")
    assert family.feed_forwards[0].fused == "mlp.gate_up_proj"
    assert not family.inferred


def test_nothing_to_write_and_nothing_there(folders: dict[str, Path], tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["anatomy", str(folders["llama"]), "--family", str(tmp_path / "no.py")])
    assert done.exit_code == 1
    assert "its families are declared (llama); there is nothing to write" in done.output
    assert not (tmp_path / "no.py").exists()
    assert RUNNER.invoke(app, ["anatomy", str(tmp_path / "nowhere")]).exit_code == 1
