"""A plan in few lines: what is alike in all layers stands in one row."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from torch import nn

from sparsify import Plan
from sparsify.plan.places import pattern, ranges
from sparsify.plan.show import SHARED, Shown
from tests.loop import recipe
from tests.models import build


def rows(model: nn.Module, each: bool = False, **fields: str) -> list[tuple[str, ...]]:
    """Return the rows of the only modifier, the sum too."""
    plan = Plan.of(recipe(**{"targets": "default", **fields}), model, total_steps=100)
    return Shown(plan.places, each).rows(plan.modifiers[0])


def test_tensors_are_grouped_by_role_and_layer() -> None:
    bert = build("bert")
    assert rows(bert)[0] == ("attention.query", "0-1", "2", "32×32", "75.00%", "512")
    assert rows(bert)[-1] == ("12 tensors", "", "", "16,384 weights", "75.00%", "4,096")
    assert [row[0] for row in rows(bert)[:-1]] == [
        "attention.query", "attention.key", "attention.value", "attention.output", "ffn.up", "ffn.down",
    ]  # fmt: skip
    every = rows(bert, each=True)
    assert len(every) == 13
    assert every[0] == ("bert.encoder.layer.0.attention.self.query.weight", "32×32", "75.00%", "256")


def test_sums_of_rows_are_those_of_the_plan() -> None:
    for family in ("bert", "gpt2", "llama", "t5", "bart", "vit"):
        model = build(family)
        shown = rows(model)
        assert sum(int(row[2]) for row in shown[:-1]) == len(rows(model, each=True)) - 1
        assert sum(int(row[-1].replace(",", "")) for row in shown[:-1]) == int(shown[-1][-1].replace(",", ""))


def test_layers_that_are_left_out_are_not_told() -> None:
    (row, _) = rows(build("bert"), targets="attention.query", layers='"1"')
    assert row[:3] == ("attention.query", "1", "1")


def test_several_stacks_are_told_apart() -> None:
    names = [row[0] for row in rows(build("t5"))]
    assert "attention.query (encoder.block)" in names
    assert "attention.query (decoder.block)" in names
    assert all("(" not in row[0] for row in rows(build("bert")))


def test_blocks_are_counted_with_their_tensors() -> None:
    (row, total) = rows(build("bert"), targets="attention", pattern="head", scope="global", sparsity="0.5")
    assert row[:3] == ("attention", "0-1", "14 in 2 blocks"), "biases too"
    assert row[3] == "2 in 7 tensors"
    assert row[-2:] == ("", "")
    assert total[0] == "2 blocks"


def test_a_common_budget_is_said_once() -> None:
    """With one budget for all no row can give a number; a sentence says why, once for each modifier."""
    plan = Plan.of(recipe(targets="default", scope="global"), build("bert"), total_steps=100)
    for text in (plan.text(), plan.text(tensors=True)):
        assert text.count(SHARED) == 1
        assert "competes" not in text
    console = Console(width=200, file=io.StringIO())
    console.print(plan)
    assert console.file.getvalue().count(SHARED) == 1  # type: ignore[attr-defined]
    alone = Plan.of(recipe(targets="default", scope="tensor"), build("bert"), total_steps=100)
    assert SHARED not in alone.text()


def test_a_matrix_of_several_roles() -> None:
    assert rows(build("gpt2"))[0][:3] == ("attention.query/key/value", "0-1", "2")
    (row, _) = rows(build("gpt2"), targets="attention.key")
    assert row[:3] == ("attention.key", "0-1", "2")


def test_what_has_no_role_is_grouped_by_name() -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 32))
    shown = rows(model, targets='"*"')
    assert [row[:3] for row in shown] == [("*.weight", "", "2"), ("2.weight", "", "1"), ("3 tensors", "", "")]
    head = rows(build("bert"), targets="task_head")
    assert head[0][:3] == ("bert.pooler.dense.weight", "", "1")


def test_what_differs_is_not_put_together() -> None:
    shown = rows(build("resnet"))
    shapes = [row[3] for row in shown[:-1]]
    assert len({row[:1] + row[3:5] for row in shown[:-1]}) == len(shown) - 1
    assert len(set(shapes)) > 1


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("layers.0.up.weight", "layers.*.up.weight"),
        ("0.weight", "*.weight"),
        ("layer1.2.conv3.weight", "layer1.*.conv3.weight"),
        ("h.11.c_attn.weight[0:32]", "h.*.c_attn.weight[0:32]"),
        ("weight", "weight"),
    ],
)
def test_patterns_of_names(name: str, wanted: str) -> None:
    assert pattern(name) == wanted


def test_ranges() -> None:
    assert ranges([5, 0, 1, 2, 8]) == "0-2, 5, 8"
    assert ranges([]) == ""
