"""`sparsify anatomy`: what a model is made of, and what was inferred as a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sparsify.anatomy import Architecture, AttentionPaths
from sparsify.anatomy.told import source
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
        if not hasattr(transformers, kind):  # an older transformers, which has no such model yet
            continue
        made = getattr(transformers, kind).config_class(**config)
        made.architectures = [kind]
        found[name] = tmp_path_factory.mktemp(name)
        made.save_pretrained(found[name])
    return found


def test_a_table_of_layers_roles_and_coverage(folders: dict[str, Path]) -> None:
    done = RUNNER.invoke(app, ["anatomy", str(folders["falcon"])])
    assert done.exit_code == 0, done.output
    assert "FalconDecoderLayer (inferred)" in done.output
    assert "transformer.h" in done.output
    assert "attention.output" in done.output
    assert "targets: default covers 100 % of the 21,504 matrix weights" in done.output


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
    done = RUNNER.invoke(app, ["anatomy", str(folders["falcon"]), "--family", str(path)])
    assert done.exit_code == 0, done.output
    made: list[Architecture] = []
    names: dict[str, Any] = {}
    text = path.read_text()
    exec(text.replace(", register\n", "\n"), names | {"register": made.append})
    (family,) = made
    assert family.layers == ("FalconDecoderLayer",)
    assert (family.attentions[0].fused, family.attentions[0].packing) == ("self_attention.query_key_value", "blocks")
    assert family.feed_forwards[0].up == "mlp.dense_h_to_4h"
    assert not family.inferred
    assert max(map(len, text.splitlines())) <= 100
    assert re.search(r'^ {12}AttentionPaths\(\n {16}output="self_attention.dense",$', text, re.MULTILINE)


def test_a_short_family_stands_in_one_line_and_reads_back_as_it_was() -> None:
    """Also names with quotes, and tuples of one."""
    family = Architecture(name="it's", layers=('a"b',), attentions=(AttentionPaths(output="o", query="q"),))
    text = source([family])
    assert (
        """    Architecture(name="it's", layers=('a"b',), attentions=(AttentionPaths(output="o", query="q"),))\n"""
        in text
    )
    made: list[Architecture] = []
    exec(text.replace(", register\n", "\n"), {"register": made.append})
    assert made == [family]


def test_nothing_to_write_and_nothing_there(folders: dict[str, Path], tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["anatomy", str(folders["llama"]), "--family", str(tmp_path / "no.py")])
    assert done.exit_code == 1
    assert "its families are declared (llama); there is nothing to write" in done.output
    assert not (tmp_path / "no.py").exists()
    assert RUNNER.invoke(app, ["anatomy", str(tmp_path / "nowhere")]).exit_code == 1


def test_a_picture(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.png"
    done = RUNNER.invoke(app, ["anatomy", str(folders["olmo2"]), "--png", str(path)])
    assert done.exit_code == 0, done.output
    assert f"Written to {path}" in done.output.replace("\n", "")
    assert path.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("sparsify.cli.common.find_spec", lambda name: None)
    done = RUNNER.invoke(app, ["anatomy", str(folders["olmo2"]), "--png", str(tmp_path / "no.png")])
    assert done.exit_code == 1
    assert "a picture needs matplotlib" in done.output
    assert not (tmp_path / "no.png").exists()


def test_a_picture_draws_every_layer_by_role() -> None:
    """What is drawn, read back from the axes: the heights are the weights, hatched where nothing is offered."""
    import transformers
    from matplotlib.figure import Figure

    from sparsify.anatomy import read
    from sparsify.report.portrait import HATCH, _stack
    from tests.anatomy.test_inference import GROUPED

    anatomy = read(transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**GROUPED)))
    assert anatomy is not None
    axes: Any = Figure().subplots()
    _stack(axes, "model.layers", anatomy.layers)
    bars = [(round(bar.get_x() + bar.get_width() / 2), bar.get_height(), bar.get_hatch()) for bar in axes.patches]
    assert bars == [(0, 3072, HATCH), (0, 6144, None), (1, 3072, HATCH), (1, 6144, None)]
