"""Scores of groups that cannot be ranked, in patterns whose groups are not all alike."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sparsify.anatomy import read
from sparsify.criteria import Criterion
from sparsify.errors import ScoreError
from sparsify.masking import Competition
from sparsify.patterns import Pattern
from sparsify.scopes import Scope
from tests.competing import compete
from tests.structure.test_units import llama

RAGGED = {"type": "block", "shape": [4, 4], "ragged": "pad"}


@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("place", [(0, 0), (9, 5), (9, 0)], ids=["whole block", "corner", "edge"])
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["NaN", "infinite"])
def test_a_ragged_group_that_cannot_be_ranked_is_named(value: float, place: tuple[int, int], scope: Any) -> None:
    torch.manual_seed(0)
    tensors = {"good": torch.randn(10, 6), "bad": torch.randn(10, 6)}
    tensors["bad"][place] = value
    with pytest.raises(ScoreError, match=r"bad: the scores hold (NaN|infinite) values"):
        compete(tensors, 0.5, pattern=RAGGED, scope=scope)


@pytest.mark.parametrize("grouped", ["whole", "quota"])
def test_a_head_that_cannot_be_ranked_is_named(grouped: str) -> None:
    """The NaN is in a head that no other is compared with beside its own group."""
    model = llama()
    query = "layers.0.self_attn.q_proj.weight"
    with torch.no_grad():
        model.get_parameter(query)[-1, -1] = math.nan
    anatomy = read(model)
    assert anatomy is not None
    axes = Criterion.parse("magnitude"), Pattern.parse({"type": "head", "grouped": grouped}), Scope.parse("tensor")
    weights = [weight for block in anatomy.attentions for _, weight in block.roles()]
    bundles, _ = axes[1].bundles(weights, anatomy)
    assert bundles
    with pytest.raises(ScoreError, match="the scores hold NaN values"):
        Competition.of(bundles, *axes, anatomy).masks(lambda arena: 0.5)
