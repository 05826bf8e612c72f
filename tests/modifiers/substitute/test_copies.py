"""Averages of weights under `substitute`: they follow the model, or say that they cannot."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sparsify import StateError
from sparsify.modifiers.substitute.saying import ACTIVATIONS
from sparsify.substitutes import NoNorm
from tests.models import build
from tests.modifiers.substitute.training import BEGIN, END, STEPS, Training


def latest(averages: Any, current: Any, count: Any) -> None:
    torch._foreach_copy_(averages, current)


def output(model: Any, run: Training) -> Tensor:
    with torch.no_grad():
        return next(iter(model(**run.inputs).values()))  # type: ignore[no-any-return]


def test_an_average_of_the_last_step_alone_is_the_model_at_every_step() -> None:
    run = Training()
    average = AveragedModel(run.model, multi_avg_fn=latest)
    for step in range(1, STEPS + 1):
        run.train(step)
        average.update_parameters(run.model)
        if step in (BEGIN + 1, END):
            assert not torch.equal(output(average, run), run.output()), "it is still where it was"
        run.manager.project(average)
        assert torch.equal(output(average, run), run.output())
    names = [name for name in ACTIVATIONS if hasattr(run.model.config, name)]
    assert names
    assert all(getattr(average.module.config, name) == "relu" for name in names)


def test_an_average_over_the_end_begins_anew_for_norms_alone() -> None:
    run = Training()
    average = AveragedModel(run.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for step in range(1, END + 2):
        run.train(step)
        average.update_parameters(run.model)
        if step == END:
            run.manager.project(average)
            norms = {name for name, module in run.model.named_modules() if isinstance(module, NoNorm)}
            for (name, mine), theirs in zip(average.module.named_parameters(), run.model.parameters(), strict=True):
                folded = name.rpartition(".")[0] in norms
                assert torch.equal(mine, theirs) == folded, name
    assert not torch.equal(output(average, run), run.output()), "it is an average again"
    assert torch.isfinite(output(average, run)).all()


def test_a_copy_made_too_early_is_refused_and_left_as_it_is() -> None:
    early, run = build("bert"), Training().train(3)
    before = copy.deepcopy(early.state_dict())
    with pytest.raises(StateError, match=r"is a LayerNorm in the model given to project.*copy the model after apply"):
        run.manager.project(early)
    assert all(torch.equal(value, before[name]) for name, value in early.state_dict().items())


def test_a_copy_made_at_the_end_is_a_model_of_its_own() -> None:
    run = Training().train()
    made = copy.deepcopy(run.model)
    run.manager.project(made)
    assert torch.equal(output(made, run), run.output())
