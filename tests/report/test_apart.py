"""Experts share parameters in the model and are tensors of their own in its files."""

from __future__ import annotations

from pathlib import Path

import torch

from sparsify.layers import all_weights
from sparsify.pretrained import as_saved
from sparsify.report.apart import apart
from sparsify.report.folder import read
from sparsify.report.saved import find
from tests.experts import mixtral


def test_experts_that_are_saved_one_by_one_are_counted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = mixtral()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter[torch.rand_like(parameter) < 0.5] = 0
    model.layers[0].mlp.experts.gate_up_proj.data[2, :24] = 0  # the gate of an expert
    model.save_pretrained(tmp_path)
    saved = {name for name, _ in find(tmp_path).tensors()}
    parameters = dict(model.named_parameters())
    assert not saved & {name for name in parameters if ".experts." in name}, "else there is nothing to test"
    found = read(tmp_path).census
    for name, parameter in parameters.items():
        count = found.tensors[name]
        assert (count.elements, count.nonzeros) == (parameter.numel(), int(parameter.count_nonzero())), name
    experts = sum(parameter.numel() for name, parameter in parameters.items() if ".experts." in name)
    assert found.conventions["linear"].elements > experts
    assert found.conventions["linear"].sparsity > 0.4
    gate = model.layers[0].mlp.experts.gate_up_proj[:, :24]
    assert found.grid["ffn.gate"]["0"].nonzeros == int(gate.count_nonzero()), "gate and up are told apart"


def test_rows_of_experts_are_found_in_what_is_saved() -> None:
    """In every form in which they are stored: the saved tensor has the very weights of the rows."""
    model = mixtral()
    found = apart(model)
    saved = as_saved(model, dict(model.named_parameters()))
    weights = [weight for weight in all_weights(model) if weight.stack]
    assert len(found) == 24
    for key, piece in found.items():
        pieces = [piece.of(weight, saved[key]) for weight in weights if weight.parameter_name == piece.parameter]
        assert sum(each.numel() for each in pieces) == saved[key].numel()
        whole = next(weight.whole for weight in weights if weight.parameter_name == piece.parameter)
        rows = whole.rows(piece.start, piece.start + saved[key].shape[piece.axis])
        assert torch.equal(rows.cube(rows.tensor).flatten(1), saved[key])
