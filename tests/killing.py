"""Run a training in a process of its own, in which it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def killed(which: str, folder: Path, moment: str, count: float) -> int:
    """Train in `folder` until the process is killed, or done; return the exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainer_crash", which, str(folder), moment, str(count)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, -9), done.stderr[-2000:]
    return done.returncode
