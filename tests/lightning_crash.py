"""A Lightning training that is killed: `python -m tests.lightning_crash FOLDER MOMENT COUNT`; goes on from FOLDER.

MOMENT is `checkpoint` (half of the COUNT-th is written), `step` (before the COUNT-th optimizer step), or `time` (COUNT
seconds after it has begun).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from tests.integrations.test_lightning_resume import keep_all, newest, stages


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str, count: float) -> None:
    left = [int(count)]

    def tick() -> bool:
        left[0] -= 1
        return left[0] == 0

    if moment == "step":
        torch.optim.optimizer.register_optimizer_step_pre_hook(lambda *_: die() if tick() else None)
    elif moment == "time":
        threading.Timer(count, die).start()
    else:
        import fsspec.implementations.local as local

        move = local.LocalFileOpener.commit

        def half(self: Any) -> Any:
            if tick():
                os.truncate(self.temp, os.path.getsize(self.temp) // 2)
                die()
            return move(self)

        local.LocalFileOpener.commit = half


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    arm(sys.argv[2], float(sys.argv[3]))
    stages(folder, 3 if newest(folder) else 0, keep_all(folder / "kept"), resume=newest(folder))
