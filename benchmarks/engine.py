"""The sparse engine beside dense products: single layers, then whole encoders, each pair in turn in one run.

Layers: torch's dense product (MKL), the engine with each instruction set, and MKL's own sparse product (torch's CSR).
Models: a BERT with random weights of which so many are zero: torch, torch.compile (`--compile`), ONNX Runtime
(`--onnx`), DeepSparse (`--deepsparse PYTHON`, the Python of an environment with `deepsparse==1.8.0`) and the engine.
Ratios are of the shortest times: what else the machine does only adds to a time. The dense rate beside them says
whether the dense product was as fast as it can be. `the rest` is the model with sparse layers that compute nothing, and
`times_its_bound` the time of the engine ÷ (operations on what is kept ÷ the peak measured in this run, + the rest).

    python benchmarks/engine.py [--only layers models] [--tokens 1 16 128 2048] [--zeros 0.5 0.7 0.8 0.9 0.95 0.97]
        [--patterns unstructured 4x1 1x4 32x32 2:4] [--batch-sizes 1 4 16] [--lengths 128] [--rounds 15]
        [--instructions avx2] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import deep_sparse  # beside this file
import torch
from shortest import best
from torch import Tensor, nn
from torch.nn import functional

from sparsify import engine
from sparsify.benchmarking.machine import machine
from sparsify.engine import layer
from sparsify.engine.chosen import KERNELS
from sparsify.engine.library import INSTRUCTIONS
from sparsify.engine.rules import worth_a_trial

SHAPES = {"attention": (768, 768), "up": (3072, 768), "down": (768, 3072), "decode": (8192, 4096)}
PATTERNS = {"unstructured": (1, 1), "4x1": (4, 1), "1x4": (1, 4), "32x32": (32, 32), "2:4": None}
MODELS = {"minilm": (384, 6, 12, 1536), "bert-base": (768, 12, 12, 3072)}


def mask(rows: int, columns: int, zeros: float, pattern: str) -> Tensor:
    """Return a random mask [rows, columns] with so many zeros, in whole blocks; 2:4 keeps two of every four inputs."""
    shape = PATTERNS[pattern]
    if shape is None:
        kept = torch.rand(rows, columns // 4, 4).argsort(-1) < 2
        return kept.reshape(rows, columns)
    blocks = torch.rand(rows // shape[0], columns // shape[1])
    kept = blocks >= blocks.flatten().kthvalue(max(int(zeros * blocks.numel()), 1)).values
    return kept.repeat_interleave(shape[0], 0).repeat_interleave(shape[1], 1)


def layers(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each layer, number of tokens, fraction of zeros and pattern."""
    best_set = INSTRUCTIONS[engine.instructions()]
    sets = asked.instructions or [name for name, number in INSTRUCTIONS.items() if 0 < number <= best_set]
    for name in asked.shapes:
        rows, columns = SHAPES[name]
        dense, bias = torch.randn(rows, columns), torch.randn(rows)
        for tokens in asked.tokens if name != "decode" else (1,):
            x = torch.randn(tokens, columns)
            for pattern in asked.patterns:
                for zeros in asked.zeros if pattern != "2:4" else (0.5,):
                    weight = dense * mask(rows, columns, zeros, pattern)
                    calls: dict[str, Callable[[], object]] = {"dense": partial(functional.linear, x, dense, bias)}
                    for kernel in worth_a_trial(weight):
                        packed = engine.pack(weight, KERNELS[kernel])
                        for each in sets:
                            number = INSTRUCTIONS[each]
                            product = partial(engine.sparse_linear, x, packed, bias, rows, instructions=number)
                            calls[f"{kernel} {each}"] = product
                    if asked.mkl and pattern == "unstructured" and tokens > 1:
                        csr, turned = weight.to_sparse_csr(), x.t().contiguous()
                        calls["MKL CSR (no transposes)"] = partial(torch.matmul, csr, turned)
                    times = best(calls, asked)
                    flops = 2 * tokens * rows * columns
                    yield {
                        "layer": name, "tokens": tokens, "pattern": pattern, "zeros": zeros,
                        "dense_gflops": flops / times["dense"] / 1e9,
                        "faster": {key: times["dense"] / value for key, value in times.items() if key != "dense"},
                        "gflops_of_what_is_kept": {
                            key: flops * float(weight.count_nonzero()) / weight.numel() / value / 1e9
                            for key, value in times.items()
                            if key != "dense"
                        },
                    }  # fmt: skip


def encoder(name: str, zeros: float, pattern: str) -> nn.Module:
    """Return a BERT with random weights, of whose encoder's matrices so many are zero."""
    from transformers import BertConfig, BertForSequenceClassification

    hidden, count, heads, wide = MODELS[name]
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(hidden_size=hidden, num_hidden_layers=count, num_attention_heads=heads, intermediate_size=wide)
    ).eval()
    with torch.no_grad():
        for module in model.bert.encoder.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(mask(*module.weight.shape, zeros, pattern))
    return model


def models(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each model, shape of inputs, fraction of zeros and pattern."""
    for name in asked.models:
        for pattern in asked.patterns:
            for zeros in asked.zeros if pattern != "2:4" else (0.5,):
                dense: Any = encoder(name, zeros, pattern)
                for batch, length in ((b, n) for n in asked.lengths for b in asked.batch_sizes):
                    ids = torch.randint(1000, 20000, (batch, length))
                    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": 0 * ids}
                    sparse = copy.deepcopy(dense)
                    chosen = engine.accelerate(sparse, sample=given)
                    calls: dict[str, Callable[[], object]] = {
                        "dense": partial(dense, **given),
                        "sparse": partial(sparse, **given),
                        "the rest": partial(with_products, sparse, nothing, given),
                    }
                    for each in asked.instructions:
                        product = partial(engine.sparse_linear, instructions=INSTRUCTIONS[each])
                        calls[f"sparse, {each}"] = partial(with_products, sparse, product, given)
                    if asked.compile:
                        for key, model in (("dense, compiled", dense), ("sparse, compiled", sparse)):
                            calls[key] = partial(torch.compile(model), **given)
                    if asked.onnx:
                        calls["ONNX Runtime"] = session(dense, given)
                    if asked.deepsparse:
                        calls["DeepSparse"] = deep_sparse.call(dense, given, asked.deepsparse, torch.get_num_threads())
                    with torch.inference_mode():
                        times = best(calls, asked)
                        apart = float((dense(**given).logits - sparse(**given).logits).abs().max())
                    peak = engine.peak()
                    bound = 2 * batch * length * kept(sparse) / peak + times["the rest"]
                    yield {
                        "model": name, "batch": batch, "length": length, "pattern": pattern, "zeros": zeros,
                        "sparse_layers": len(chosen.sparse), "largest_difference": apart,
                        "peak_gflops": peak / 1e9, "times_its_bound": times["sparse"] / bound,
                        "milliseconds": {key: 1000 * value for key, value in times.items()},
                        "faster": {key: times["dense"] / value for key, value in times.items() if key != "dense"},
                    }  # fmt: skip


def with_products(model: Any, instead: Callable[..., Tensor], given: dict[str, Tensor]) -> object:
    """Run an accelerated model with another function for the products of its linear layers."""
    before = layer.sparse_linear
    layer.sparse_linear = instead
    try:
        return model(**given)
    finally:
        layer.sparse_linear = before


def nothing(x: Tensor, packed: Tensor, bias: Tensor | None, rows: int, activation: str = "none") -> Tensor:
    """Return outputs that nobody computed."""
    return x.new_zeros(1).expand(*x.shape[:-1], rows)


def kept(model: nn.Module) -> int:
    """Return how many weights of a model's sparse layers are not zero."""
    return sum(each.dense_weight().count_nonzero().item() for each in model.modules() if isinstance(each, layer.Sparse))


def session(model: Any, given: dict[str, Tensor]) -> Callable[[], object]:
    """Return a call of the model in ONNX Runtime."""
    from sparsify.benchmarking.engines import ENGINES, Prepared

    runtime = ENGINES["onnxruntime"]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        prepared = runtime.prepare(Prepared(Path(folder)), Path(folder) / "onnx")
        return runtime.open(prepared, torch.get_num_threads())(given)


def main() -> None:
    """Measure what is asked for; a line each, and everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("layers", "models"), default=("layers", "models"))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 16, 128, 2048])
    parser.add_argument("--zeros", nargs="+", type=float, default=[0.5, 0.7, 0.8, 0.9, 0.95, 0.97])
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=list(PATTERNS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--lengths", nargs="+", type=int, default=[128])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each row; three rounds are always made")
    parser.add_argument(
        "--processor-time", action="store_true",
        help="count this process's own time, on a machine that others use too; for one thread alone",
    )  # fmt: skip
    sets = [name for name, number in INSTRUCTIONS.items() if number > 0]
    parser.add_argument(
        "--instructions", nargs="+", choices=sets, default=[], help="only these; of models, beside the best"
    )
    parser.add_argument("--mkl", action="store_true", help="MKL's sparse product, too")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too")
    parser.add_argument("--onnx", action="store_true", help="ONNX Runtime, too")
    parser.add_argument("--deepsparse", metavar="PYTHON", help="DeepSparse, too, run by this Python")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.processor_time and torch.get_num_threads() > 1:
        parser.error("--processor-time is for one thread: set OMP_NUM_THREADS=1")
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    print(machine(), engine.instructions())
    rows = []
    with torch.inference_mode():
        for part in asked.only:
            for row in {"layers": layers, "models": models}[part](asked):
                rows.append(row)
                print(json.dumps(row), flush=True)
    fastest = max((row["dense_gflops"] for row in rows if "dense_gflops" in row), default=None)
    if fastest is not None:
        print(f"the best dense rate of this run: {fastest:.0f} GFLOP/s")
    if asked.json is not None:
        asked.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
