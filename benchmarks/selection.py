"""Exact global selection: time in units of one `torch.sum` over the same data, and peak extra memory.

Aim: at most 8 sums, and at most 10 % of the scores beside the returned masks. The scores are the weights of
one arena of 24 tensors, as a model has them; `after pruning` is the same with the zeros of an earlier mask.

    python benchmarks/selection.py [--millions 85 1000] [--json FILE]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from sparsify.benchmarking.machine import machine
from sparsify.criteria import Criterion
from sparsify.layers import all_weights
from sparsify.masking import Competition, project_
from sparsify.patterns import Pattern
from sparsify.scopes import Scope

TENSORS = 24


def peak_rise(call: Callable[[], object]) -> int:
    """Return by how many bytes the resident memory rose, at most, during a call (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # what an earlier call left behind would hide what this one takes
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def median_time(call: Callable[[], object], rounds: int) -> float:
    """Return the median seconds of a call."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(millions: int) -> Iterator[dict[str, object]]:
    """Measure dense and already sparse weights of this many million scores; yield each case when it is done."""
    rows = millions * 1_000_000 // TENSORS // 1000
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(1000, rows, bias=False) for _ in range(TENSORS)))
    weights = {weight.name: weight for weight in all_weights(model)}
    for number, weight in enumerate(weights.values()):
        weight.tensor.normal_(0, 0.5 + number / TENSORS)
    axes = (Criterion.parse("magnitude"), Pattern.parse("unstructured"), Scope.parse("global"))
    competition = Competition.of(axes[1].bundles(list(weights.values()), None)[0], *axes)
    for name, sparsity in (("dense, to 50 %", 0.5), ("dense, to 90 %", 0.9), ("after pruning, 90 % to 90.5 %", 0.905)):
        if name.startswith("after"):
            for key, mask in competition.masks(lambda arena: 0.9).items():
                project_(weights[key].tensor, mask)

        def call(sparsity: float = sparsity) -> dict[str, torch.Tensor]:
            return competition.masks(lambda arena: sparsity)

        call()
        rounds = 7 if millions < 500 else 3
        total = median_time(lambda: [weight.tensor.sum() for weight in weights.values()], rounds)
        spent = median_time(call, rounds)
        masks = sum(weight.geometry.elements for weight in weights.values())
        extra = max(peak_rise(call) - masks, 0)
        yield {
            "scores": masks,
            "case": name,
            "seconds": spent,
            "sums": spent / total,
            "extra_memory": extra / (4 * masks),
        }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, nargs="+", default=[85, 1000])
    parser.add_argument("--json", help="write the figures to a file")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    figures = []
    for row in (row for millions in arguments.millions for row in measure(millions)):
        figures.append(row)
        print(
            f"{row['scores']:>13,} scores, {row['case']:30s} {row['seconds']:.3f} s = {row['sums']:.1f} sums, "
            f"extra memory {row['extra_memory']:.1%} of the scores",
            flush=True,
        )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"machine": machine(), "figures": figures}, indent=2))


if __name__ == "__main__":
    main()
