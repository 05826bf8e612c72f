"""What masks take in two checkouts, which take turns: ratio of this one to the other, with quartiles.

Every case is the masks of one layer of BERT-base (7 million weights), asked for as training asks: the weights that
an earlier mask pruned are zero, and the new mask has to prune a few more. With `--steps`, whole training steps under
the recipes of hooks.py and masking.py are compared instead, and what more the hooks take, as a part of a step.

    python benchmarks/against.py FOLDER [--steps] [--rounds N] [--only PART] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CASES: dict[str, tuple[Any, str, float, float]] = {
    "single weights, tensor": ("unstructured", "tensor", 0.5, 0.5005),
    "single weights, global": ("unstructured", "global", 0.5, 0.5005),
    "single weights, row, slow ramp": ("unstructured", "row", 0.5, 0.50002),
    "single weights, row, fast ramp": ("unstructured", "row", 0.5, 0.5015),
    "single weights, row, from dense": ("unstructured", "row", 0.0, 0.5),
    "2:4, tensor": ("2:4", "tensor", 0.3, 0.3005),
    "2:4, row": ("2:4", "row", 0.3, 0.3),
    "block 4x1, tensor": ({"type": "block", "shape": [4, 1]}, "tensor", 0.5, 0.5005),
    "block 32x32, global": ({"type": "block", "shape": [32, 32]}, "global", 0.5, 0.51),
    "row, tensor": ("row", "tensor", 0.5, 0.51),
    "column, tensor": ("column", "tensor", 0.5, 0.51),
}


def work() -> None:
    """Answer each case that is named on a line with the seconds of one update."""
    import torch
    from torch import nn

    from sparsify.criteria import Criterion
    from sparsify.layers import all_weights
    from sparsify.masking import Competition, project_
    from sparsify.patterns import Pattern
    from sparsify.scopes import Scope

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    calls: dict[str, Any] = {}
    masks: dict[str, dict[str, torch.Tensor]] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in calls:
            pattern, scope, earlier, now = CASES[name]
            torch.manual_seed(0)
            shapes = [(768, 768)] * 4 + [(768, 3072), (3072, 768)]
            model = nn.Sequential(*(nn.Linear(*shape, bias=False) for shape in shapes))
            weights = {weight.name: weight for weight in all_weights(model)}
            axes = Criterion.parse("magnitude"), Pattern.parse(pattern), Scope.parse(scope)
            made = Competition.of(axes[1].bundles(list(weights.values()), None)[0], *axes)
            masks[name] = made.masks(lambda arena, s=earlier: s)  # type: ignore[misc]
            for key, mask in masks[name].items():
                project_(weights[key].tensor, mask)
            calls[name] = lambda before, made=made, now=now: made.masks(lambda arena: now, before)
            masks[name] = calls[name](masks[name])
        start = time.perf_counter()
        masks[name] = calls[name](masks[name])
        print(time.perf_counter() - start, flush=True)


def step_cases() -> dict[str, str]:
    """Return the recipes of hooks.py and masking.py as text, by name."""
    import hooks
    import masking

    return {name: module.recipe(name) for module in (hooks, masking) for name in module.CASES}


def work_steps() -> None:
    """Answer each case that is named on a line with the CPU seconds of one step, and those spent in hooks."""
    import torch
    from steps import build, stepper

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    cases, current, step = step_cases(), "", None
    for line in sys.stdin:
        if line.strip() != current:
            current = line.strip()
            torch.manual_seed(0)
            step = stepper(build(2), cases[current], time.process_time)
            step()
        assert step is not None
        print(*step(), flush=True)


def worker(folder: Path, kind: str) -> subprocess.Popen[str]:
    """Start a process that works with the package of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    command = [sys.executable, __file__, kind]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder
    )


def ask(process: subprocess.Popen[str], name: str) -> list[float]:
    """Let a worker make one update, or one step."""
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None
    stdin.write(name + "\n")
    stdin.flush()
    return [float(figure) for figure in stdout.readline().split()]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="the other checkout")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", help="a part of a case's name")
    parser.add_argument("--json", help="write the figures to a file")
    parser.add_argument("--steps", action="store_true", help="whole training steps")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--work-steps", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work or arguments.work_steps:
        return work() if arguments.work else work_steps()
    from sparsify.benchmarking.machine import machine

    print(machine(), flush=True)
    kind = "--work-steps" if arguments.steps else "--work"
    mine, other = worker(Path(__file__).resolve().parents[1], kind), worker(arguments.folder.resolve(), kind)
    figures = {}
    for name in step_cases() if arguments.steps else CASES:
        if arguments.only and arguments.only not in name:
            continue
        pairs = []
        for turn in range(arguments.rounds + 1):
            order = (mine, other) if turn % 2 else (other, mine)
            spent = {process.pid: ask(process, name) for process in order}
            if turn:
                pairs.append((spent[mine.pid], spent[other.pid]))
        low, middle, high = statistics.quantiles([one[0] / two[0] for one, two in pairs], n=4)
        seconds = [statistics.median(times[0] for times in each) for each in zip(*pairs, strict=True)]
        figures[name] = {"ratio": middle, "quartiles": [low, high], "seconds": seconds}
        line = f"{name:32s} ×{middle:.3f}  (quartiles {low:.3f} to {high:.3f})  "
        line += f"{1e3 * seconds[0]:.1f} ms, and {1e3 * seconds[1]:.1f} ms there"
        if arguments.steps:
            parts = [[times[1] / (times[0] - times[1]) for times in each] for each in zip(*pairs, strict=True)]
            hooks = [statistics.median(part) for part in parts]
            figures[name]["hooks"] = hooks
            line += f"; hooks {hooks[0]:.2%}, and {hooks[1]:.2%} there, of a step without them"
        print(line, flush=True)
    for process in (mine, other):
        process.terminate()
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"machine": machine(), "figures": figures}, indent=2))
    return None


if __name__ == "__main__":
    main()
