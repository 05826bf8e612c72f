"""Bytes of sparse weights: packed, beside the order-0 bound, zstd of the dense file and torch's CSR; and decoding.

The linear weights of a trained encoder, pruned by magnitude in each tensor; then an encoder of BERT-base's shapes
(random weights, every layer of its own; biases and norms too) that is pruned globally, with values as int8.
Aims: at most 1.02 times the bound; at 90 % at most 3.0 bits a weight (float32) and 1.4 (bfloat16); 100 million weights
a second and core; at most 8.6 MB for the encoder of BERT-base at 6 %.

    python benchmarks/storage.py MODEL [--levels 3 19] [--skip-bert] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import zstandard
from safetensors.torch import save_file
from torch import Tensor

from sparsify import anatomy, pretrained
from sparsify.benchmarking.machine import machine
from sparsify.storage import PackedFile, Summary, pack

SPARSITIES = (0.8, 0.9, 0.97)
DTYPES = (torch.float32, torch.bfloat16)
ROUNDS = 5
HIDDEN, INTERMEDIATE, LAYERS, DENSITY = 768, 3072, 12, 0.06


def encoder(model: str) -> dict[str, Tensor]:
    """Return the linear weights inside a model's layers."""
    found = anatomy.read(pretrained.load(model))
    assert found is not None
    return {weight.name: weight.tensor.detach() for layer in found.layers for _, weight in layer.roles()}


def pruned(weight: Tensor, sparsity: float) -> Tensor:
    """Return a weight with its smallest numbers at zero."""
    magnitudes = weight.abs().flatten()
    threshold = magnitudes.kthvalue(int(sparsity * weight.numel())).values
    return torch.where(weight.abs() > threshold, weight, torch.zeros(()))


def csr_bytes(tensors: dict[str, Tensor]) -> int:
    """Return the bytes of torch's CSR tensors: values, and indices of eight bytes."""
    kept = sum(int(t.count_nonzero()) for t in tensors.values())
    rows = sum(len(t) + 1 for t in tensors.values())
    return kept * (next(iter(tensors.values())).element_size() + 8) + 8 * rows


def decoding(path: Path) -> tuple[float, float]:
    """Return million original weights a second, by the clock and by the processor's time; the best of some rounds."""
    packed = PackedFile(path)
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        clock, work = time.perf_counter(), time.process_time()
        elements = sum(tensor.numel() for _, tensor in packed.tensors())
        best = [min(best[0], time.perf_counter() - clock), min(best[1], time.process_time() - work)]
    return elements / best[0] / 1e6, elements / best[1] / 1e6


def row(name: str, summary: Summary, path: Path) -> dict[str, object]:
    """Return what was measured of a packed file."""
    total = summary.total
    clock, work = decoding(path)
    return {
        "case": name,
        "weights": total.elements,
        "bytes": summary.bytes,
        "bound": round(total.bound),
        "ratio": round(summary.ratio, 4),
        "bits": round(8 * summary.bytes / total.elements, 3),
        "positions": total.positions,
        "values": total.values,
        "scales": total.scales,
        "decoded_millions_a_second": round(clock),
        "by_processor_time": round(work),
    }


def trained(model: str, folder: Path, levels: list[int]) -> Iterator[dict[str, object]]:
    """Measure the pruned encoder of a trained model."""
    weights = encoder(model)
    for dtype in DTYPES:
        for sparsity in SPARSITIES:
            tensors = {name: pruned(weight, sparsity).to(dtype) for name, weight in weights.items()}
            dense, packed = folder / "dense.safetensors", folder / "packed"
            save_file(tensors, dense)
            found = row(f"{sparsity:.0%}, {str(dtype).removeprefix('torch.')}", pack(tensors, packed), packed)
            data = dense.read_bytes()
            whole = {f"zstd_{level}": len(zstandard.ZstdCompressor(level=level).compress(data)) for level in levels}
            yield {**found, "dense": len(data), **whole, "csr": csr_bytes(tensors)}


def bert_base() -> dict[str, Tensor]:
    """Return an encoder of BERT-base's shapes, its matrices pruned together to a density."""
    torch.manual_seed(0)
    shapes = {"query": (HIDDEN, HIDDEN), "key": (HIDDEN, HIDDEN), "value": (HIDDEN, HIDDEN), "output": (HIDDEN, HIDDEN)}
    shapes |= {"up": (INTERMEDIATE, HIDDEN), "down": (HIDDEN, INTERMEDIATE)}
    matrices, vectors = {}, {}
    for layer in range(LAYERS):
        for role, shape in shapes.items():
            matrices[f"{layer}.{role}.weight"] = torch.randn(shape) * (0.03 + 0.02 * float(torch.rand(())))
            vectors[f"{layer}.{role}.bias"] = torch.randn(shape[0]) * 0.05
        for norm in ("attention", "ffn"):
            vectors[f"{layer}.{norm}.norm.weight"] = 0.9 + 0.05 * torch.randn(HIDDEN)
            vectors[f"{layer}.{norm}.norm.bias"] = 0.05 * torch.randn(HIDDEN)
    magnitudes = torch.cat([matrix.abs().flatten() for matrix in matrices.values()])
    threshold = magnitudes.kthvalue(int((1 - DENSITY) * len(magnitudes))).values
    zero = torch.zeros(())
    return {**{name: torch.where(m.abs() > threshold, m, zero) for name, m in matrices.items()}, **vectors}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--levels", type=int, nargs="+", default=[3, 19], help="of zstd, for the dense file")
    parser.add_argument("--skip-bert", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(machine(), flush=True)
    found = []
    with TemporaryDirectory() as place:
        folder = Path(place)
        for case in trained(options.model, folder, options.levels):
            print(json.dumps(case), flush=True)
            found.append(case)
        if not options.skip_bert:
            tensors = bert_base()
            for name, settings in (("exact", {}), ("int8, group 64", {"values": "int8"})):
                summary = pack(tensors, folder / "packed", **settings)  # type: ignore[arg-type]
                case = row(f"BERT-base's encoder, {DENSITY:.0%}, {name}", summary, folder / "packed")
                print(json.dumps(case), flush=True)
                found.append(case)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
