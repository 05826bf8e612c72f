"""Scripts of the tests in two processes: how a test starts them, and how they end."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

ROOT = Path(__file__).parents[1]


def in_two(script: str, *arguments: str, imports: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run `tests.SCRIPT` in two processes, with one thread each and without a network.

    `imports` are what it imports late, and need not import twice.
    """
    return subprocess.run(
        [sys.executable, "-m", "tests.two", ",".join((f"tests.{script}", *imports)), f"tests.{script}", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def leave() -> None:
    """End this process, one of several, without taking the interpreter down.

    DDP keeps gloo's threads alive beyond `destroy_process_group`. One that still holds a tensor of the last collective
    wants the GIL when it lets go, and aborts the process where the interpreter is ending ("terminate called without an
    active exception": seen once, on a loaded machine).
    """
    gc.collect()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)
