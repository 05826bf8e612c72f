"""A run that is killed: `python -m tests.crash MOMENT COUNT PLACE OUT KIND`. SIGKILL, as the kernel sends it.

MOMENT is `step` (between backward and the optimizer's step), `evaluation`, or `checkpoint` (a file of it half-written); the
process dies when that happens for the COUNT-th time. `time` kills COUNT seconds after the training has begun.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from sparsify import Recipe
from sparsify.train.run import run
from sparsify.train.settings import Settings
from tests.train.test_train import recipe, settings

COMPOUND = """
version: 1
stages:
  - name: shrink
    length: 60%
    modifiers:
      - {type: layer_drop, keep: [1]}
      - {type: distill, logits: {temperature: 2}, hidden: {loss: squarehead}}
      - {type: prune, criterion: movement, sparsity: 0.75, window: {begin: 10%, end: 80%, every: 2}}
  - name: settle
    modifiers:
      - {type: distill, logits: {}, hardness: 0.5, cache: {}}
      - {type: prune, criterion: existing}
"""


def asked(place: Path, kind: str) -> tuple[Settings, Recipe]:
    """Return settings and recipe: `small`, or `compound` with a dropped layer and the teacher that lies in `place`."""
    if kind == "small":
        return settings(place, save_every=5, eval_every=6), recipe()
    return settings(place, save_every=5, eval_every=6, teacher=str(place / "teacher")), Recipe.parse(COMPOUND)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str, count: float) -> None:
    """Make the process die at the moment."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_pre_hook
    from transformers import Trainer, TrainerCallback

    left = [int(count)]

    def tick() -> bool:
        left[0] -= 1
        return left[0] == 0

    if moment == "step":
        register_optimizer_step_pre_hook(lambda *_: die() if tick() else None)
    elif moment == "evaluation":
        before = Trainer.prediction_step

        def step(self: Any, *arguments: Any, **options: Any) -> Any:
            if tick():
                die()
            return before(self, *arguments, **options)

        Trainer.prediction_step = step
    elif moment == "checkpoint":
        save = torch.save

        def half(thing: Any, file: Any, *arguments: Any, **options: Any) -> None:
            save(thing, file, *arguments, **options)
            if tick():
                if isinstance(file, (str, os.PathLike)):
                    os.truncate(file, os.path.getsize(file) // 2)
                die()

        torch.save = half
    else:
        begin = TrainerCallback.on_train_begin

        def started(self: Any, *arguments: Any, **options: Any) -> Any:
            if left[0] >= 0:
                left[0] = -1
                threading.Timer(count, die).start()
            return begin(self, *arguments, **options)

        TrainerCallback.on_train_begin = started


if __name__ == "__main__":
    _, moment, count, place, out, kind = sys.argv
    arm(moment, float(count))
    folder = Path(out)
    run(*asked(Path(place), kind), folder, resume=(folder / "run.json").exists())
