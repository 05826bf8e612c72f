"""`cache`: the teacher is asked about each sample once, and the training is the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify.modifiers.distill import Distill
from tests.modifiers.distill.cached import KINDS, Asked, rows_of, widened
from tests.modifiers.distill.students import apply, batch, bert, step


@pytest.mark.parametrize("kind", KINDS)
def test_a_cached_training_is_the_uncached_one(kind: str) -> None:
    """Whole rows, rows that are mixed anew, rows with more padding: the same losses, up to the rounding of floats."""
    make, inputs_of, term = KINDS[kind]
    inputs = inputs_of()
    batches = [inputs, inputs, rows_of(inputs, [3, 1]), widened(inputs, 3), rows_of(inputs, [2, 2, 0])]
    if kind == "regression":
        batches.pop(3)  # the model is given no more padding than it has positions for, either way
    losses: dict[str, list[float]] = {}
    for cache in ("", ", cache: {}"):
        student, teacher = make(), make(1)
        asked = Asked(teacher)
        manager, optimizer = apply(
            student, f"logits: {term}, hardness: 0.9{cache}", teacher=teacher, steps=len(batches)
        )
        losses[cache] = [float(step(manager, student, optimizer, each)) for each in batches]
        if cache:
            assert asked.rows == [4], "once about each sample"
        else:
            assert len(asked.rows) == len(batches)
        manager.finalize()
    assert losses[", cache: {}"] == pytest.approx(losses[""], rel=2e-5)


def test_only_rows_that_are_missing_are_asked_about() -> None:
    student, teacher, inputs = bert(), bert(seed=1), batch()
    asked = Asked(teacher)
    manager, optimizer = apply(student, "logits: {}, cache: {}", teacher=teacher, steps=3)
    other = bert()
    plain, plain_optimizer = apply(other, "logits: {}", teacher=bert(seed=1), steps=3)
    for each in (rows_of(inputs, [0, 2]), inputs, rows_of(inputs, [1, 1])):
        mine, theirs = step(manager, student, optimizer, each), step(plain, other, plain_optimizer, each)
        assert float(mine) == pytest.approx(float(theirs), rel=1e-5)
    assert asked.rows == [2, 2]
    found = manager._runs[0].report()["cache"]
    assert found == {"misses": 4, "hits": 4, "samples": 4}
    assert Distill.findings({"cache": found, "distilled": {"logits": 1.0}})[1] == (
        "the teacher was asked about 4 samples; 4 were found in the cache"
    )


def test_rows_of_positional_arguments_and_of_plain_modules() -> None:
    student, teacher, inputs = nn.Linear(4, 3), nn.Linear(4, 3), torch.randn(6, 4)
    asked = Asked(teacher)
    manager, optimizer = apply(student, "logits: {}, cache: {}", teacher=teacher, steps=3)
    for rows in ([0, 1], [0, 1, 2, 3, 4, 5], [5, 0]):
        manager.on_step_begin()
        outputs = student(inputs[rows])
        before = float(nn.functional.kl_div(
            outputs.detach().log_softmax(-1), teacher.forward(inputs[rows]).detach().log_softmax(-1),
            log_target=True, reduction="batchmean",
        ))  # fmt: skip
        loss = manager.on_loss(0 * outputs.sum(), outputs)
        assert float(loss.detach()) == pytest.approx(before, rel=1e-4, abs=1e-6)
        loss.backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    assert asked.rows == [2, 4]


def test_what_else_is_in_a_batch_tells_no_samples_apart() -> None:
    """Texts, numbers of rows: the teacher does not read them."""
    student, teacher = bert(), bert(seed=1)
    asked = Asked(teacher)
    manager, optimizer = apply(student, "logits: {}, cache: {}", teacher=teacher, steps=2)
    for number in range(2):
        manager.on_step_begin()
        outputs = student(**batch())
        manager.on_loss(outputs.loss, outputs, {**batch(), "texts": [str(number)] * 4, "epoch": number}).backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    assert asked.rows == [4]
