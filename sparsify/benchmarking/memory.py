"""Peak memory: measured in a process of its own, which does nothing but load one model and run it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from sparsify.benchmarking.engines import Inputs
from sparsify.benchmarking.results import Peak

LONGEST = 1800
"""Seconds after which a process is given up."""


def peaks(engine: str, path: Path, threads: int, every: Sequence[Inputs]) -> list[Peak] | str:
    """Return the peak for each of `every`, or why there is none.

    They run in one process, the smallest first: the high-water mark that is read after each is its own then.
    """
    order = sorted(range(len(every)), key=lambda place: sum(tensor.numel() for tensor in every[place].values()))
    with TemporaryDirectory(prefix="sparsify-") as folder:
        files = []
        for place in order:
            files.append(str(Path(folder) / f"{place}.pt"))
            torch.save(dict(every[place]), files[-1])
        asked = json.dumps({"engine": engine, "path": str(path), "threads": threads, "inputs": files})
        try:
            done = subprocess.run(
                [sys.executable, "-m", "sparsify.benchmarking.child"],
                input=asked,
                capture_output=True,
                text=True,
                timeout=LONGEST,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"its process could not be run: {type(error).__name__}"
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return f"its process ended with {done.returncode}{f': {lines[-1][:200]}' if lines else ''}"
    marks: Any = json.loads(done.stdout.splitlines()[-1])
    if marks is None:
        return "this system does not say how much memory a process has"
    found = [Peak(whole=mark, own=max(mark - marks["before"], 0)) for mark in marks["after"]]
    return [found[order.index(place)] for place in range(len(every))]
