"""A training that is killed: `python -m tests.trainer_crash WHICH FOLDER MOMENT COUNT`; goes on from FOLDER.

WHICH is `lightning` or `accelerate`. MOMENT is `checkpoint` (half of the COUNT-th file is written), `step` (before the
COUNT-th optimizer step), or `time` (COUNT seconds after it has begun).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str, count: float) -> None:
    """Make the process die at the moment."""
    left = [int(count)]

    def tick() -> bool:
        left[0] -= 1
        return left[0] == 0

    def half(path: str) -> None:
        os.truncate(path, os.path.getsize(path) // 2)
        die()

    if moment == "step":
        register_optimizer_step_pre_hook(lambda *_: die() if tick() else None)
    elif moment == "time":
        threading.Timer(count, die).start()
    else:
        from fsspec.implementations.local import LocalFileOpener

        move, save = LocalFileOpener.commit, torch.save

        def commit(self: Any) -> Any:
            if tick():
                half(self.temp)
            return move(self)

        def saving(thing: Any, file: Any, *arguments: Any, **options: Any) -> None:
            save(thing, file, *arguments, **options)
            if isinstance(file, (str, os.PathLike)) and tick():
                half(str(file))

        LocalFileOpener.commit, torch.save = commit, saving


if __name__ == "__main__":
    which, folder, moment, count = sys.argv[1], Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    arm(moment, count)
    if which == "lightning":
        from tests.integrations.test_lightning_resume import keep_all, newest, stages

        stages(folder, 3 if newest(folder) else 0, keep_all(folder / "kept"), resume=newest(folder))
    else:
        from tests.integrations import test_accelerate

        test_accelerate.stages(folder, save_every=1)
