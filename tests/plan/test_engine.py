"""What is said of the sparse engine before training: its break-even on this processor."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from sparsify import break_even
from sparsify.plan import Plan, engine
from sparsify.recipe import Recipe

CURVE = [(0.3, 0.5), (0.5, 0.9), (0.7, 1.1), (0.9, 4.1)]


def test_the_break_even_lies_between_what_was_measured():
    assert break_even.pays_from(CURVE) == pytest.approx(0.6)
    assert break_even.pays_from([(0.3, 1.2), (0.5, 2.0)]) == 0.3
    assert break_even.pays_from([(0.3, 0.2), (0.5, 0.4)]) is None
    assert [break_even.times(CURVE, zeros) for zeros in (0.1, 0.4, 0.8, 0.99)] == pytest.approx([0.5, 0.7, 2.6, 4.1])


def test_the_table_is_whole():
    measured = break_even.measured()
    assert set(measured) == {"AVX-512", "AVX2", "portable"}
    for kernels in measured.values():
        assert set(kernels) == {"unstructured", "4 × 1", "convolution"}
        for curve in kernels.values():
            assert [zeros for zeros, _ in curve] == sorted({zeros for zeros, _ in curve})
            assert all(times > 0 for _, times in curve)
            assert curve[-1][1] > curve[0][1]


@pytest.mark.parametrize("name", ["AVX512", "AVX2", "DEFAULT", "something new"])
def test_every_processor_has_its_row(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: name)
    said = break_even.sentence(0.9)
    assert f"({break_even.INSTRUCTIONS.get(name, 'portable')})" in said
    assert re.search(r"linear layers with 90% zeros are about [\d.]+ times as fast", said)


def test_convolutions_have_a_row_of_their_own():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 64))
    said = planned(model, "unstructured", 0.9)
    assert said == break_even.sentence(0.9, kernel="convolution")
    assert "convolutions with 90% zeros" in said
    assert said != break_even.sentence(0.9)
    assert planned(model, "{type: block, shape: [4, 1]}", 0.9) == said


def words(pattern: str, sparsity: float, rest: str = "") -> str | None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    return planned(model, pattern, sparsity, rest)


def planned(model: nn.Module, pattern: str, sparsity: float, rest: str = "") -> str | None:
    recipe = (
        f"{{version: 1, modifiers: [{{type: prune, targets: '*', pattern: {pattern}, sparsity: {sparsity}{rest}}}]}}"
    )
    return engine.words(Plan.of(Recipe.parse(recipe), model, total_steps=10))


def test_it_is_said_where_the_engine_suits_the_pattern(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    many, few = words("unstructured", 0.9), words("{type: block, shape: [4, 1]}", 0.9)
    assert many == break_even.sentence(0.9)
    assert few is not None
    assert few.startswith(break_even.sentence())
    assert float(few.split("about ")[1].split()[0]) > float(many.split("about ")[1].split()[0])  # type: ignore[union-attr]
    assert words("'2:4'", 0.5) == break_even.sentence(0.5)
    assert words("row", 0.5) is None  # whole rows leave the model
    assert words("unstructured", 0.2) is None
