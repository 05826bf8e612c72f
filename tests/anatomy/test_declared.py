"""What families declare is what is found by trying: for every class of layers that they list."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from torch import nn

from sparsify.anatomy import architectures, read
from tests.anatomy.declared import CASES, NOT_BEFORE_5, make
from tests.majors import OLD
from tests.models import build


def blocks(model: nn.Module) -> list[Any]:
    """Return what is known of every attention and feed-forward block."""
    anatomy = read(model)
    assert anatomy is not None
    assert not [block.doubt for block in (*anatomy.attentions, *anatomy.feed_forwards) if block.doubt]
    heads = [
        (block.name, block.heads, block.groups, block.interleaved, [weight.name for weight in block.projections])
        for block in anatomy.attentions
    ]
    return [*heads, *sorted([weight.name for _, weight in block.roles()] for block in anatomy.feed_forwards)]


@pytest.mark.parametrize(("kind", "place"), CASES)
def test_what_is_declared_is_what_is_found_by_trying(kind: str, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(kind, place)
    declared = blocks(model)
    assert declared
    monkeypatch.setattr(sys.modules["sparsify.anatomy.read"], "architectures", lambda: [])
    assert declared == blocks(model)


def test_every_class_of_layers_is_tried() -> None:
    listed = {name for family in architectures() for name in family.layers}
    small = [build(name) for name in ("resnet", "resnet-bottleneck", "resnet-by-hand")]
    models = [
        *(make(*case) for case in CASES if not (OLD and case in NOT_BEFORE_5)),
        *small,
        nn.TransformerDecoderLayer(8, 2, 8),
        nn.TransformerEncoderLayer(8, 2, 8),
    ]
    met = {cls.__name__ for model in models for module in model.modules() for cls in type(module).__mro__}
    assert listed - met == set()
