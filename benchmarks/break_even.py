"""The table of `sparsify/break_even.json`: how many times as fast as dense the sparse engine is, by fraction of zeros.

    python benchmarks/engine.py --only layers --shapes attention up down --tokens 256 --patterns unstructured 4x1
        --zeros 0.3 0.4 0.5 0.6 0.7 0.8 0.9 0.95 --json MEASURED.json
    python benchmarks/break_even.py MEASURED.json

The geometric mean over the layers of BERT-base's shapes. A machine that does other things at the same time gives
nothing: dense products and the engine's must have been at their best.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

from sparsify.break_even import FILE

NAMES = {"avx512": "AVX-512", "avx2": "AVX2", "portable": "portable"}
KERNELS = {"unstructured": ("unstructured",), "4x1": ("4x1", "2x1")}
"""The kernels that a pattern may take: the faster one counts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path)
    data = json.loads(parser.parse_args().measured.read_text(encoding="utf-8"))
    found: dict[str, dict[str, dict[float, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in data["rows"]:
        for short, name in NAMES.items():
            times = [row["faster"].get(f"{kernel} {short}", 0.0) for kernel in KERNELS[row["pattern"]]]
            found[name][row["pattern"].replace("x", " × ")][row["zeros"]].append(max(times))
    faster = {
        name: {
            pattern: [[zeros, round(math.prod(each) ** (1 / len(each)), 2)] for zeros, each in sorted(points.items())]
            for pattern, points in patterns.items()
        }
        for name, patterns in found.items()
    }
    FILE.write_text(json.dumps({"machine": data["machine"], "faster": faster}, indent=1) + "\n", encoding="utf-8")
    for name, patterns in faster.items():
        for pattern, points in patterns.items():
            print(name, pattern, *(f"{zeros:.0%} {times:.2f}×" for zeros, times in points))


if __name__ == "__main__":
    main()
