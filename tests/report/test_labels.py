"""Columns of layers in reports: one stack, an encoder and a decoder, and many stacks of one name."""

from __future__ import annotations

import pytest

from sparsify.report.labels import short_stacks


@pytest.mark.parametrize(
    ("stacks", "names"),
    [
        (["model.layers", "model.layers"], [""]),
        (["encoder.block", "decoder.block"], ["encoder", "decoder"]),
        (["blocks", "others"], ["blocks", "others"]),
        (["stages.0.layers", "stages.1.layers"], ["stages.0.layers", "stages.1.layers"]),
        (["a.encoder.layers", "b.encoder.layers"], ["a.encoder.layers", "b.encoder.layers"]),
    ],
)
def test_every_stack_has_a_name_of_its_own(stacks: list[str], names: list[str]) -> None:
    assert list(short_stacks(stacks).values()) == names
