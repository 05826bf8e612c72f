"""The process whose memory is measured: `python -m sparsify.benchmarking.child`, asked by JSON on stdin."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from sparsify.benchmarking.engines import ENGINES, Prepared

RUNS = 3
"""Forwards of each shape: buffers that are kept come with the first or the second."""


def main() -> None:
    """Load, run, and print the memory before and the high-water marks after each shape, in bytes; null if unknown."""
    asked: Any = json.load(sys.stdin)
    engine = ENGINES[asked["engine"]]
    torch.set_num_threads(asked["threads"])
    engine.load()
    every = [torch.load(file, weights_only=True) for file in asked["inputs"]]
    before = _status("VmRSS")
    bind = engine.open(Prepared(Path(asked["path"])), asked["threads"])
    after = []
    for inputs in every:
        call = bind(inputs)
        for _ in range(RUNS):
            call()
        after.append(_status("VmHWM"))
    print(json.dumps(None if before is None or None in after else {"before": before, "after": after}))


def _status(key: str) -> int | None:
    """Return bytes from Linux's account of this process.

    `getrusage` would begin with the high-water mark of the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = next((line.split() for line in lines if line.startswith(f"{key}:")), None)
    return int(found[1]) * 1024 if found else None


if __name__ == "__main__":
    main()
