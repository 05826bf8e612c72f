"""Ctrl-C, or no memory left, at any line of ours: the model is sparse afterwards, and the training can go on."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

import sparsify
from sparsify import Manager, Recipe
from tests.loop import adamw, loss_of, train

ROOT = str(Path(sparsify.__file__).parent)
STEPS = 8
RECIPE = Recipe.parse("""
version: 1
stages:
  - length: 4 steps
    name: one
    modifiers:
      - {type: prune, name: a, targets: "0", sparsity: 0.5, window: {begin: 1, end: 4}}
  - name: two
    modifiers:
      - {type: prune, name: b, targets: "0", criterion: movement, sparsity: {from: existing, to: 0.7}}
      - {type: prune, name: c, targets: "2", masking: latent, sparsity: 0.7}
""")


class Interrupt:
    """Raises KeyboardInterrupt at the nth line of the package that a call runs."""

    def __init__(self, line: int) -> None:
        self.left, self.raised = line, False

    def run(self, call: Callable[[], Any]) -> None:
        before = sys.gettrace()
        sys.settrace(self._calls)
        try:
            call()
        except KeyboardInterrupt:
            assert self.raised
        finally:
            sys.settrace(before)

    def _calls(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._lines if frame.f_code.co_filename.startswith(ROOT) else None

    def _lines(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.raised = True
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._lines


def applied(model: nn.Module) -> tuple[torch.optim.Optimizer, Manager]:
    optimizer = adamw(model)
    return optimizer, Manager(RECIPE).apply(model, optimizer, total_steps=STEPS)


def under_masks(model: nn.Module, manager: Manager) -> bool:
    return not any(bool(each.weight.tensor[~each.mask].count_nonzero()) for each in manager._masks)


@pytest.mark.parametrize("then", ["go on", "save", "partial", "detach"])
@pytest.mark.parametrize("step", [3, STEPS - 1])
def test_on_step_end_may_be_interrupted_at_any_line(step: int, then: str, mlp: nn.Module) -> None:
    optimizer, manager = applied(mlp)
    train(mlp, optimizer, manager, range(step))
    start = [copy.deepcopy(part.state_dict()) for part in (mlp, optimizer, manager)]  # type: ignore[attr-defined]
    line = 1
    while True:
        optimizer, manager = applied(mlp)
        for part, state in zip((mlp, optimizer, manager), start, strict=True):
            part.load_state_dict(copy.deepcopy(state))
        manager.on_step_begin()
        optimizer.zero_grad()
        loss_of(mlp, step).backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        interrupt = Interrupt(line)
        interrupt.run(manager.on_step_end)
        if not interrupt.raised:
            break
        if then == "go on":
            if manager._transaction.phase == "ready":
                manager.on_step_end()
            train(mlp, optimizer, manager, range(manager.step, STEPS))
            assert manager.finalize().targeted.sparsity == pytest.approx(0.7, abs=0.01)
        elif then == "save":
            saved = manager.state_dict()
            assert under_masks(mlp, manager)
            manager.load_state_dict(saved)
        elif then == "partial":
            manager.finalize(partial=True)
        else:
            manager.detach()
            assert under_masks(mlp, manager)
        line += 9 if line > 20 else 1
    assert line > 20
