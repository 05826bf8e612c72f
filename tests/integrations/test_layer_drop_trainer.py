"""Layer dropping in the Trainer: before the checkpoint is loaded, and by what the checkpoint says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertForSequenceClassification

from sparsify import Recipe
from sparsify.integrations.transformers import SparsifyCallback
from tests.integrations.test_distill_trainer import Rows, trainer
from tests.modifiers.distill.students import bert

RECIPE = """
version: 1
modifiers:
  - {type: layer_drop, keep: {count: 2, rule: block-influence}}
  - {type: distill, logits: {}, hidden: {loss: squarehead}}
  - {type: prune, sparsity: 0.5}
"""


class Counted(list[Any]):
    """Batches that count how often they are read."""

    reads = 0

    def __iter__(self) -> Any:
        Counted.reads += 1
        return super().__iter__()


def training(folder: Path, calibration: Any, **more: Any) -> Any:
    bindings = {"teacher": bert(layers=4, seed=1), "calibration": calibration}
    callback = SparsifyCallback(Recipe.parse(RECIPE), bindings=bindings, **more)
    return trainer(folder, callback, model=bert(layers=4), save_strategy="steps", save_steps=2, save_total_limit=4)


def test_a_resume_goes_by_what_was_chosen_and_never_measures(tmp_path: Path) -> None:
    rows = Rows()
    data = Counted([{"input_ids": rows.ids[:8]}, {"input_ids": rows.ids[8:16]}])
    whole = training(tmp_path, data)
    assert Counted.reads == 1, "measured when the Trainer is made, before any checkpoint is loaded"
    assert whole.model.config.num_hidden_layers == 2
    whole.train()
    (change,) = whole.callback_handler.callbacks[0].manager.plan.changes.values()
    assert len(change.scores) == 4
    assert len(change.kept) == 2
    found = BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-4")
    assert found.config.num_hidden_layers == 2
    Counted.reads = 0
    again = training(tmp_path, data, checkpoint=tmp_path / "checkpoint-4")
    assert Counted.reads == 0
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert Counted.reads == 0
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
