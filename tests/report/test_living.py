"""What lives, read from files: exact counts, and the same as compaction finds in the model itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import sparsify
from sparsify import compact
from sparsify.anatomy import Attention, read
from sparsify.compaction.units import find
from sparsify.report.folder import read as report
from sparsify.report.living import Living, Units
from sparsify.report.told import sentences
from tests.compaction.dead import empty_columns, empty_rows, kill, kill_heads, kill_neurons, lines
from tests.compaction.test_ways import WAYS, blocks
from tests.experts import mixtral
from tests.models import MODELS, build
from tests.report.test_report import call

NAMES = [name for name in MODELS if MODELS[name].make is None]


def llama() -> Any:
    """Return a model of four layers: eight heads in four groups, 160 neurons."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=160,
        vocab_size=40,
    )
    return LlamaForCausalLM(config)


def saved(model: Any, folder: Path) -> Living:
    model.save_pretrained(folder)
    return report(folder).structure.living


def by_compaction(model: nn.Module) -> list[tuple[str, list[int]]]:
    """Return (kind, dead units) of every block, as compaction finds them in the model itself."""
    anatomy = read(model)
    assert anatomy is not None
    return [
        ("heads" if isinstance(unit.block, Attention) else "neurons", (~unit.alive).nonzero().flatten().tolist())
        for unit in find(anatomy, lambda name: name)
    ]


def by_report(living: Living) -> list[tuple[str, list[int]]]:
    there = [
        units for units in living.units if units.total or units.kind == "neurons"
    ]  # attention without heads is gone
    return [(units.kind, list(units.dead)) for units in there if units.kind != "channels"]


@torch.no_grad()
def test_counts_of_a_model_made_by_hand(tmp_path: Path) -> None:
    model = llama()
    anatomy = read(model)
    assert anatomy is not None
    heads, ffn = anatomy.attentions, anatomy.feed_forwards
    kill_heads(heads[1], torch.tensor([1, 2]))
    empty_columns(heads[3].output, lines(torch.tensor([2, 5]), 8))
    kill_neurons(ffn[1], torch.tensor([7, 9, 150]))
    kill_heads(heads[2], torch.arange(4))
    kill_neurons(ffn[2], torch.arange(160))
    living = saved(model, tmp_path)
    assert [units.dead for units in living.of("heads")] == [(), (2, 3, 4, 5), tuple(range(8)), (2, 5)]
    assert [units.dead_groups() for units in living.of("heads")] == [(), (1, 2), (0, 1, 2, 3), ()]
    assert [units.alive for units in living.of("neurons")] == [160, 157, 0, 160]
    text = call("report", str(tmp_path))
    assert "18 of 32 alive (per layer: 8 4 0 6)" in text
    assert "key/value heads  10 of 16 alive (per layer: 4 2 0 4)" in text
    assert "477 of 640 alive (per layer: 160 157 0 160)" in text
    assert "nothing left in  layer 2" in text
    data = json.loads(call("report", str(tmp_path), "--json"))["structure"]
    assert (data["heads"]["alive"], data["heads"]["total"], data["empty_layers"]) == (18, 32, ["2"])
    assert data["heads"]["blocks"][1] == {
        "layer": "1", "block": "", "alive": 4, "total": 8, "dead": [2, 3, 4, 5], "groups": 4, "dead_groups": [1, 2]
    }  # fmt: skip
    assert data["neurons"]["blocks"][1] == {"layer": "1", "block": "", "alive": 157, "total": 160}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_as_compaction_finds(name: str, tmp_path: Path) -> None:
    """In every family, under the names in its files: fused, transposed, grouped, several blocks in a layer."""
    model = build(name)
    count = kill(model)
    living = saved(model, tmp_path)
    assert by_report(living) == by_compaction(model)
    assert sum(len(units.dead) for units in living.units) >= count


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_die(way: str, tmp_path: Path) -> None:
    from tests.anatomy.declared import make

    model = make("BertForSequenceClassification")
    empty, heads, neurons = WAYS[way]
    with torch.no_grad():
        empty(*blocks(model))
    living = saved(model, tmp_path)
    assert (living.of("heads")[0].alive, living.of("neurons")[0].alive) == (heads, neurons)


@torch.no_grad()
def test_experts_that_are_saved_one_by_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = mixtral()
    kill(model)
    living = saved(model, tmp_path)
    assert by_report(living) == by_compaction(model)
    assert len(living.of("neurons")) == 8
    assert living.of("neurons")[1].block.endswith("experts.1")


@torch.no_grad()
def test_a_neuron_with_a_bias_under_a_gate_lives(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=40, mlp_bias=True
    )
    model = LlamaForCausalLM(config)
    block = blocks(model)[1]
    block.up.bias().tensor.fill_(0.5)
    empty_rows(block.up, torch.tensor([3, 4, 5]), bias=False)
    empty_rows(block.up, torch.tensor([4]))
    empty_rows(block.gate, torch.tensor([5]))
    living = saved(model, tmp_path)
    assert living.of("neurons")[0].dead == (4, 5)
    assert by_report(living) == by_compaction(model)


@torch.no_grad()
def test_channels_are_rows(tmp_path: Path) -> None:
    model = build("resnet")
    anatomy = read(model)
    assert anatomy is not None
    empty_rows(anatomy.layers[1].others[0][1], torch.tensor([1, 6]))
    living = saved(model, tmp_path)
    assert [(units.layer, units.dead) for units in living.units if units.dead] == [("1", (1, 6))]
    assert "110 of 112 alive" in call("report", str(tmp_path))
    assert report(tmp_path).structure.maps.maps == ()


def test_a_smaller_model_with_other_widths_in_every_layer(tmp_path: Path) -> None:
    model = build("bert")
    with torch.no_grad():
        kill(model)
    sparsify.save(compact(model), tmp_path)
    assert (tmp_path / "sparsify_widths.json").exists(), "else there is nothing to test"
    found = report(tmp_path).structure
    assert not any(units.dead for units in found.living.units)
    assert [units.total for units in found.living.of("neurons")] == [48, 47]
    left = "95 of 128 left, 33 were taken out by compaction (per layer: 48 of 64, 47 of 64)"
    assert ("neurons", left) in found.facts()
    assert [section.heading for section in found.sections()] == ["Width: heads", "Width: neurons"], "nothing is zero"


def test_a_layer_that_lost_all_and_left(tmp_path: Path) -> None:
    """A block of width 0 is no block any more; the layer still has its place. Nor is there anything to cut again."""
    from tests.anatomy.declared import make

    model = make("BertForSequenceClassification")
    attention, ffn = blocks(model)
    with torch.no_grad():
        kill_heads(attention, torch.arange(attention.groups))
        kill_neurons(ffn, torch.arange(ffn.neurons))
    smaller = compact(model)
    sparsify.save(smaller, tmp_path)
    found = report(tmp_path).structure
    total = sum(units.total for units in found.living.of("neurons"))
    left = f"{total} of {2 * total} left, {total} were taken out by compaction (per layer: 0 of {total}, {total} of {total})"
    assert ("neurons", left) in found.facts()
    assert ("heads", "4 of 8 left, 4 were taken out by compaction (per layer: 0 of 4, 4 of 4)") in found.facts()
    assert ("nothing left in", "layer 0") in found.facts()
    assert [section.heading for section in found.sections()] == ["Width: heads", "Width: neurons"]
    assert by_report(found.living) == by_compaction(smaller)
    before = sum(parameter.numel() for parameter in smaller.parameters())
    assert sum(parameter.numel() for parameter in compact(smaller).parameters()) == before


def test_layers_without_heads_keep_their_place() -> None:
    def units(kind: Any, layer: str, dead: tuple[int, ...]) -> Units:
        return Units(kind, "", layer, "", 4, dead)

    living = Living(
        (units("heads", "0", (1,)), *(units("neurons", f"{n}", ()) for n in range(3)), units("heads", "2", ()))
    )
    assert sentences(living) == [("heads", "7 of 8 alive (per layer: 3 – 4)")]


def test_a_packed_file_tells_the_same(tmp_path: Path) -> None:
    model = build("gpt2")
    with torch.no_grad():
        kill(model)
    living = saved(model, tmp_path / "model")
    call("pack", str(tmp_path / "model"), str(tmp_path / "model.packed"))
    assert report(tmp_path / "model.packed").structure.living == living


def nothing(folder: Path) -> None:
    save_file({"a.weight": torch.zeros(4, 4)}, folder / "model.safetensors")


def doubted(folder: Path) -> None:
    """A configuration of nothing that is known."""
    nothing(folder)
    (folder / "config.json").write_text('{"model_type": "none-such"}')


@pytest.mark.parametrize("make", [nothing, doubted])
def test_without_an_anatomy_there_is_none_of_it(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    found = report(tmp_path)
    assert found.structure.facts() == []
    assert found.structure.sections() == []
    assert found.to_dict()["structure"] == {}


def test_a_dense_model_has_nothing_to_tell(tmp_path: Path) -> None:
    build("bert").save_pretrained(tmp_path)
    found = report(tmp_path)
    assert found.structure.facts() == []
    assert found.structure.sections() == []
    assert found.to_dict()["structure"]["heads"]["alive"] == 4


def test_a_layer_is_empty_only_if_all_of_it_is() -> None:
    def units(kind: Any, layer: str, dead: int) -> Units:
        return Units(kind, "", layer, "", 2, tuple(range(dead)))

    living = Living(
        (units("heads", "0", 2), units("neurons", "0", 1), units("heads", "1", 2), units("neurons", "1", 2))
    )
    assert living.empty_layers() == ["1"]
