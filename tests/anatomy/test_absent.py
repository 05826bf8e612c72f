"""Paths of a family of one's own that no layer has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from typer.testing import CliRunner

from sparsify import Plan, Recipe
from sparsify.anatomy import Architecture, AttentionPaths, FeedForwardPaths, absent, architecture, read, register
from sparsify.cli.app import app
from tests.models import MODELS, build


class Attn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.head_dim, self.width = 4, 16


class OwnLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.down = Attn(), nn.Linear(32, 16)
        self.up, self.gate = nn.Linear(16, 32), nn.Linear(16, 32)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(OwnLayer() for _ in range(2)), nn.Linear(16, 2)


ATTENTION = AttentionPaths.at("attention", "q", "k", "v", "out", "head_dim")
FEED_FORWARD = FeedForwardPaths(up="up", gate="gate", down="down")
FAMILY = Architecture("own", ("OwnLayer",), (ATTENTION,), (FEED_FORWARD,))


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    architecture._known.pop("own", None)


def said(**changes: Any) -> str:
    register(replace(FAMILY, **changes))
    return " | ".join(absent(Own()))


def test_what_is_right_is_not_spoken_of() -> None:
    assert said() == ""
    anatomy = read(Own())
    assert anatomy is not None
    assert anatomy.layers[0].attentions[0].heads == 4


@pytest.mark.parametrize(("changes", "wanted"), [
    ({"query": "atention.q"}, "family own, OwnLayer: there is no 'atention.q' (did you mean 'attention'?)"),
    ({"query": "attention.query"}, "there is no 'attention.query' (one of: head_dim, k, out, q, v, width)"),
    ({"output": "attention.outt"}, "there is no 'attention.outt' (did you mean 'out'?)"),
    ({"head_size": "attention.head_dimm"}, "there is no number at 'attention.head_dimm' (did you mean 'head_dim'?)"),
    ({"query": "attention"}, "'attention' has no weight of its own (one of: k, out, q, v)"),
])  # fmt: skip
def test_a_wrong_path_of_attention_names_what_there_is(changes: dict[str, str], wanted: str) -> None:
    assert wanted in said(attentions=(replace(ATTENTION, **changes),))


def test_a_size_that_does_not_divide_is_said() -> None:
    class Odd(Own):
        def __init__(self) -> None:
            super().__init__()
            for layer in self.layers:
                layer.attention.head_dim = 7

    register(FAMILY)
    (found,) = absent(Odd())
    assert "do not fit" in found


@pytest.mark.parametrize(("changes", "wanted"), [
    ({"up": "upp"}, "there is no 'upp' (did you mean 'up'?)"),
    ({"gate": "gated"}, "there is no 'gated' (did you mean 'gate'?)"),
    ({"down": "mlp.down"}, "there is no 'mlp.down' (one of: attention, down, gate, up)"),
])  # fmt: skip
def test_a_wrong_path_of_a_feed_forward_block(changes: dict[str, str], wanted: str) -> None:
    assert wanted in said(feed_forwards=(replace(FEED_FORWARD, **changes),))


def test_other_weights() -> None:
    assert "OwnLayer has nothing at 'extra.*', declared as ffn" in said(others=(("ffn", "extra.*"),))


def test_a_second_way_to_declare_a_block_may_be_absent() -> None:
    """As a family of several classes does; but not one that is half there."""
    other = AttentionPaths.at("cross", "q", "k", "v", "out", "head_dim")
    assert said(attentions=(ATTENTION, other)) == ""
    half = AttentionPaths.at("attention", "q", "k", "value", "out", "head_dim")
    assert "'attention.value'" in said(attentions=(ATTENTION, half))


def test_a_plan_and_the_command_line_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(replace(FAMILY, attentions=(replace(ATTENTION, query="attention.qq"),)))
    plan = Plan.of(
        Recipe.parse("{version: 1, modifiers: [{type: prune, targets: ffn, sparsity: 0.5}]}"), Own(), total_steps=10
    )
    assert any("there is no 'attention.qq'" in note for note in plan.notes)
    monkeypatch.setattr("sparsify.cli.anatomy.planned", lambda *_: (Own(), []))
    done = CliRunner().invoke(app, ["anatomy", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "there is no 'attention.qq'" in " ".join(done.output.split())


@pytest.mark.parametrize("name", MODELS)
def test_families_of_ours_are_not_spoken_of(name: str) -> None:
    assert absent(build(name)) == []
