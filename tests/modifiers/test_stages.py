"""Stages that compose: layers dropped, distilled, learned masks, another ramp, a lock; resumed at every step."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsify import Manager, Recipe
from tests.modifiers.distill.students import batch, bert

STEPS = 12
RECIPE = """
version: 1
stages:
  - name: shrink
    length: 4 steps
    modifiers:
      - {type: layer_drop, keep: [0, 2, 3]}
      - {type: distill, teacher: self, logits: {temperature: 2}, hidden: {loss: squarehead}, hardness: 0.9}
      - {type: prune, criterion: movement, sparsity: 0.5}
  - name: more
    length: 5 steps
    modifiers:
      - {type: distill, logits: {}, hidden: {loss: cosine}}
      - {type: prune, sparsity: {from: existing, to: 0.8}}
  - name: settle
    modifiers:
      - {type: distill, teacher: self, logits: {}, begin: 1}
      - {type: prune, criterion: existing}
"""


class Training:
    """A small BERT of four layers, of which three stay; another teacher of other widths in the second stage."""

    def __init__(self, seed: int = 0) -> None:
        self.model = bert(layers=4, seed=seed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        teacher = bert(layers=4, seed=9, hidden_size=24)
        self.manager = Manager(Recipe.parse(RECIPE)).apply(
            self.model, self.optimizer, total_steps=STEPS, teacher=teacher
        )
        self.losses: list[float] = []

    def train(self, until: int) -> Training:
        while self.manager.step < until:
            self.manager.on_step_begin()
            self.optimizer.zero_grad()
            inputs = batch(self.manager.step)
            outputs = self.model(**inputs)
            loss = self.manager.on_loss(outputs.loss, outputs, inputs)
            loss.backward()
            self.losses.append(float(loss.detach()) - float(outputs.loss.detach()))
            self.manager.on_before_optimizer_step()
            self.optimizer.step()
            self.manager.on_step_end()
        return self

    def states(self) -> list[Any]:
        return [copy.deepcopy(part.state_dict()) for part in (self.model, self.optimizer, self.manager)]

    def load(self, states: list[Any]) -> Training:
        for part, state in zip((self.model, self.optimizer, self.manager), states, strict=True):
            part.load_state_dict(state)
        return self


def test_every_stage_does_its_part() -> None:
    training = Training()
    seen = []
    for step in range(STEPS):
        training.train(step + 1)
        seen.append(training.manager.sparsity)
    assert len(training.model.bert.encoder.layer) == training.model.config.num_hidden_layers == 3
    assert seen == sorted(seen), "what is pruned stays pruned"
    assert seen[3] == pytest.approx(0.5, abs=1e-3)
    assert seen[8:] == [pytest.approx(0.8, abs=1e-3)] * 4
    assert [value != 0 for value in training.losses] == [True] * 9 + [False] + [True] * 2, "distilled when it says so"
    assert training.manager.finalize().targeted.sparsity == pytest.approx(0.8, abs=1e-3)
    first = training.manager._runs[1].setting.pairs["hidden"]  # type: ignore[attr-defined]
    assert [(pair.student.origin, pair.teacher.index) for pair in first] == [(0, 0), (2, 2), (3, 3)]


@pytest.mark.parametrize("stop", range(1, STEPS))
def test_a_resume_in_every_stage_ends_with_the_same_bits(stop: int) -> None:
    one = Training().train(stop)
    saved = one.states()
    one.train(STEPS)
    other = Training(seed=5).load(saved).train(STEPS)  # another start: all that counts is in the states
    for (name, mine), theirs in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    assert one.losses[stop:] == other.losses


def test_the_folder_is_an_ordinary_smaller_model(tmp_path: Path) -> None:
    import transformers

    training = Training().train(STEPS)
    training.manager.finalize(tmp_path)
    training.model.save_pretrained(tmp_path)
    again = transformers.BertForSequenceClassification.from_pretrained(tmp_path).eval()
    inputs = batch(99)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, training.model.eval()(**inputs).logits)
