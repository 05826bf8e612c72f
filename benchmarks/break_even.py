"""The table of `sparsify/break_even.json`: how many times as fast as dense the sparse engine is, by fraction of zeros.

    T="--tokens 256 --patterns unstructured 4x1 --zeros 0.3 0.4 0.5 0.6 0.7 0.8 0.9 0.95 --shapes attention up down"
    C="--only layers --batch-sizes 1 --zeros 0.3 0.5 0.6 0.7 0.8 0.9 0.95"
    python benchmarks/engine.py --only layers $T --instructions avx512 --json 1.json
    python benchmarks/convolutions.py $C --instructions avx512 --json 2.json
    python benchmarks/break_even.py 1.json 2.json …

The same with `MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2` and `--instructions avx2`, and with `SSE4_2`,
`SSE41` and `portable`: what the dense product could not do on such a processor must not slow it down here. The
geometric mean over the layers of BERT-base's shapes, and over those of ResNet-50. With `--processor-time` of one thread
other work on the machine matters little; dense products and the engine's must have been at their best.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

from sparsify.break_even import FILE

NAMES = {"avx512": "AVX-512", "avx2": "AVX2", "portable": "portable"}
KERNELS = {"unstructured": ("unstructured",), "4x1": ("4x1", "2x1"), "convolution": ("",)}
"""The kernels that a pattern may take: the faster one counts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, nargs="+")
    files = [json.loads(path.read_text(encoding="utf-8")) for path in parser.parse_args().measured]
    found: dict[str, dict[str, dict[float, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in (row for data in files for row in data["rows"]):
        for short, name in NAMES.items():
            keys = [f"{kernel} {short}".strip() for kernel in KERNELS[row["pattern"]]]
            times = [row["faster"][key] for key in keys if key in row["faster"]]
            if not times:
                continue
            found[name][row["pattern"].replace("x", " × ")][row["zeros"]].append(max(times))
    faster = {
        name: {
            pattern: [[zeros, round(math.prod(each) ** (1 / len(each)), 2)] for zeros, each in sorted(points.items())]
            for pattern, points in patterns.items()
        }
        for name, patterns in found.items()
    }
    FILE.write_text(json.dumps({"machine": files[0]["machine"], "faster": faster}, indent=1) + "\n", encoding="utf-8")
    for name, patterns in faster.items():
        for pattern, points in patterns.items():
            print(name, pattern, *(f"{zeros:.0%} {times:.2f}×" for zeros, times in points))


if __name__ == "__main__":
    main()
