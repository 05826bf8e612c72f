"""Lightning's stock Trainer with our callback: the step, in automatic and manual optimization."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import HookError, Manager, Recipe
from tests.lightnings import CRITERIA, QUIET, Batches, Module, callback, mlp, same, trainer
from tests.loop import adamw, batch

pytestmark = QUIET
STEPS = 12


def by_hand(text: str, accumulate: int = 1, norm: float | None = None) -> tuple[nn.Module, Any]:
    """The same training in a loop of one's own."""
    model = mlp()
    optimizer = adamw(model)
    manager = Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        for micro in range(accumulate):
            inputs, wanted = batch(step * accumulate + micro)
            ((model(inputs) - wanted).square().mean() / accumulate).backward()
        manager.on_before_optimizer_step()
        if norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), norm)
        optimizer.step()
        manager.on_step_end()
    return model, manager.finalize()


class Manual(Module):
    """The same training, by hand: accumulation and clipping of its own."""

    def __init__(self, accumulate: int, norm: float | None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.accumulate, self.norm = accumulate, norm

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        if batch_idx % self.accumulate == 0:
            optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx) / self.accumulate)
        if batch_idx % self.accumulate == self.accumulate - 1:
            if self.norm is not None:
                self.clip_gradients(optimizer, self.norm, "norm")
            optimizer.step()


@pytest.mark.parametrize("kind", CRITERIA)
@pytest.mark.parametrize(("accumulate", "norm"), [(1, None), (3, 0.05)])
@pytest.mark.parametrize("manual", [False, True])
def test_it_trains_as_a_loop_with_the_hooks_does(
    tmp_path: Path, kind: str, accumulate: int, norm: float | None, manual: bool
) -> None:
    """The same weights bit by bit: masks, clock, accumulation, clipping over masked gradients."""
    wanted, density = by_hand(CRITERIA[kind], accumulate, norm)
    ours = callback(CRITERIA[kind], total_steps=STEPS if manual else None)
    module: Module = Manual(accumulate, norm) if manual else Module()
    more = {} if manual else {"accumulate_grad_batches": accumulate, "gradient_clip_val": norm}
    made = trainer(tmp_path, ours, **more)
    plugin = dict(vars(made.precision_plugin))
    made.fit(module, Batches(STEPS * accumulate))
    same(module.net, wanted)
    assert ours.density == density
    assert (tmp_path / "report.json").is_file()
    assert vars(made.precision_plugin) == plugin, "clipping is given back"
