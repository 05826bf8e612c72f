"""What the plan says of `distill`; two processes."""

from __future__ import annotations

import re

import pytest
from torch import nn

from sparsify import Plan, PlanError
from tests.modifiers.distill.students import bert, recipe
from tests.processes import in_two


@pytest.mark.parametrize(
    ("body", "model", "message"),
    [
        (
            "hidden: {}",
            "plain",
            r"Linear has no layers, as nothing repeats in it: only logits can be distilled",
        ),
        ("attention: {}", "sdpa", r"with sdpa attention there are no attention maps: load the model with attn_impl"),
        ("hidden: {layers: [[5, 1]]}", "bert", r"the model has no layer 5 \(it has 0, 1, by their original numbers\)"),
        ("logits: {}", "regression", r"predicts one number, which is no distribution: write `loss: mse`"),
        ("logits: {}, begin: 90, end: 95", "bert", r"lies beyond the stage's 4 steps"),
    ],
)
def test_what_cannot_be_distilled_is_said_in_the_plan(body: str, model: str, message: str) -> None:
    models = {
        "plain": lambda: nn.Linear(2, 2),
        "sdpa": lambda: bert(attn_implementation="sdpa"),
        "bert": bert,
        "regression": lambda: bert(num_labels=1),
    }
    with pytest.raises(PlanError, match=message):
        Plan.of(recipe(body), models[model](), total_steps=4)


def test_the_plan_shows_it() -> None:
    text = str(
        Plan.of(
            recipe("logits: {temperature: 2}, hidden: {weight: 0.5}, hardness: 0.9, end: 50%"), bert(), total_steps=8
        )
    )
    assert "distill: teacher teacher, logits kl at temperature 2, weight 1, hidden mse, weight 0.5" in text
    assert "hardness 0.9; steps 0 to 4" in text


def test_the_timeline_shows_when() -> None:
    from sparsify.report.timeline import in_text, timeline

    (line, *_) = in_text(timeline(recipe("logits: {}, begin: 25%, end: 50%"), total=100), width=8)
    assert line == "distill |··──····| (distils)"


def test_two_processes_learn_what_one_does() -> None:
    """Under DDP, projections too: they are in no module that DDP knows."""
    done = in_two("ddp_distill")
    lines = re.findall(r"rank \d: weights (\S+), projections (\S+), alike (\w+)", done.stdout)
    assert len(lines) == 2, done.stderr[-2000:]
    assert all(float(weights) < 1e-5 and float(far) < 1e-5 and alike == "True" for weights, far, alike in lines)
