"""Dead heads and neurons leave every declared family; what is left computes the same, and loads as it was said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparsify import compact, load, save
from sparsify.anatomy import Attention, read
from sparsify.compaction import compacted
from sparsify.compaction.running import Runner
from tests.anatomy.declared import CASES, make
from tests.compaction.dead import kill
from tests.majors import OLD

STAY = {
    ("StableLmForCausalLM", 1): "a norm for every head, in a list",
    ("BloomForCausalLM", 0): "slopes by the number of the head",
    ("MptForCausalLM", 0): "slopes by the number of the head",
    ("UdopEncoderModel", 0): "a table outside of the layers",
    ("WavLMForCTC", 0): "gates of positions read hidden states by head",
    ("WavLMForCTC", 1): "gates of positions read hidden states by head",
    ("MPNetForSequenceClassification", 0): "a table outside of the layers",
    ("LayoutLMv3ForSequenceClassification", 0): "a table outside of the layers",
    ("BigBirdForSequenceClassification", 0): "its sparse attention is read by the width of the model",
}
"""Models whose heads stay, and what is in the way."""

UNREAD = ("DecisionTransformerModel", "DPTForDepthEstimation")
"""Nothing here tells what they take."""

ANEW = ("MarianMTModel",)
"""Positions are computed anew when it is loaded, and the test has changed them."""


@pytest.mark.skipif(OLD, reason="folders of smaller models are tried with transformers 5")
@pytest.mark.parametrize(("kind", "place"), [case for case in CASES if case[0] not in UNREAD])
def test_dead_heads_and_neurons_leave(kind: str, place: int, tmp_path: Path) -> None:
    model = make(kind, place)
    kill(model, equal=place % 2 == 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = compacted(model)
    assert found.difference <= 1e-5
    assert found.parameters[1] < found.parameters[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    anatomy = read(model)
    assert anatomy is not None
    sure = {block.name: block for block in (*anatomy.attentions, *anatomy.feed_forwards) if not block.doubt}
    for width in found.widths:
        block = sure[width.block]
        stays = isinstance(block, Attention) and ((kind, place) in STAY or block.groups == 1)
        assert (width.after == width.before) == stays, (width, found.notes)
    if (kind, place) in STAY:
        assert any("stay as wide as they are" in note for note in found.notes)

    save(found.model, tmp_path / "small")
    if kind not in ANEW:
        assert Runner(found.model).difference(load(tmp_path / "small")) <= 1e-6
    stock: bool
    try:
        again = type(model).from_pretrained(tmp_path / "small")
    except Exception:  # whatever transformers says of widths that it does not expect
        stock = False
    else:
        stock = True
        assert kind in ANEW or Runner(found.model).difference(again) <= 1e-6
    assert stock == (found.loading.how == "stock"), found.loading


def test_a_model_without_anything_dead_stays_as_it_is() -> None:
    model = make("BertForSequenceClassification")
    found = compacted(model)
    assert found.parameters[0] == found.parameters[1]
    assert found.loading.how == "stock"
    assert not found.notes
    same = compact(model).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())
    assert not {p.data_ptr() for p in model.parameters()} & {value.data_ptr() for value in same.values()}
