"""Sparse convolutions beside torch's: layers of ResNet-50, then whole ResNets with random weights, in turn in one run.

A layer's dense time is the faster of both orders in memory (NCHW, channels last). Models are transformers' ResNets; of
every convolution and of the classifier so many weights are zero. Ratios are of the shortest times.

    python benchmarks/convolutions.py [--only layers models] [--batch-sizes 1 16] [--side 224] [--zeros 0.8 0.9 0.95]
        [--models resnet-18 resnet-50] [--rounds 12] [--seconds 1] [--processor-time] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from shortest import best  # beside this file
from torch import Tensor, nn
from torch.nn import functional

from sparsify import engine
from sparsify.benchmarking.machine import machine
from sparsify.engine.library import INSTRUCTIONS

LAYERS = [
    (64, 56, 64, 1, 1), (64, 56, 64, 3, 1), (64, 56, 256, 1, 1), (256, 56, 64, 1, 1), (128, 56, 128, 3, 2),
    (128, 28, 128, 3, 1), (512, 28, 128, 1, 1), (256, 14, 256, 3, 1), (1024, 14, 256, 1, 1), (512, 7, 512, 3, 1),
    (2048, 7, 512, 1, 1), (3, 224, 64, 7, 2),
]  # fmt: skip
"""Channels, side of the image, outputs, side of the kernel, stride; for images of 224 pixels."""

MODELS = {"resnet-18": ("basic", [2, 2, 2, 2], 1), "resnet-50": ("bottleneck", [3, 4, 6, 3], 4)}


def pruned(weight: Tensor, zeros: float) -> Tensor:
    """Return a copy of which so many numbers, drawn at random, are zero."""
    return weight * (torch.rand_like(weight) >= zeros)


def layers(asked: argparse.Namespace, images: int) -> list[dict[str, Any]]:
    """Print a line a layer; return a row for each fraction of zeros."""
    rows, number = [], INSTRUCTIONS[asked.instructions]
    for channels, wide, outputs, kernel, stride in LAYERS:
        side = max(wide * asked.side // 224, 1)
        x, weight = torch.randn(images, channels, side, side), torch.randn(outputs, channels, kernel, kernel)
        last, weight_last = (each.to(memory_format=torch.channels_last) for each in (x, weight))
        window = engine.Window((kernel, kernel), (stride, stride), (kernel // 2,) * 4, (1, 1))
        calls: dict[str, Callable[[], object]] = {
            "NCHW": lambda x=x, w=weight, s=stride, k=kernel: functional.conv2d(x, w, None, s, k // 2),
            "last": lambda x=last, w=weight_last, s=stride, k=kernel: functional.conv2d(x, w, None, s, k // 2),
        }
        for zeros in asked.zeros:
            packed = engine.pack(pruned(weight, zeros).flatten(1))
            calls[f"{zeros:.0%}"] = partial(engine.sparse_convolution, x, packed, window, outputs, instructions=number)
        seconds = best(calls, asked)
        dense = min(seconds.pop("NCHW"), seconds.pop("last"))
        for zeros in asked.zeros:
            of = {asked.instructions: dense / seconds[f"{zeros:.0%}"]}
            rows.append({"pattern": "convolution", "zeros": zeros, "faster": of})
        faster = "  ".join(f"{name} {dense / each:5.2f}×" for name, each in seconds.items())
        print(
            f"{images} × {channels} × {side}², {outputs} of {kernel}²/{stride}: {dense * 1e3:.2f} ms  {faster}",
            flush=True,
        )
    return rows


def settled(model: nn.Module, x: Tensor) -> None:
    """Let batch norms know what they get, as after a training: else activations fade into numbers that are slow."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    model(x.new_empty(4, *x.shape[1:]).normal_())
    model.eval()


def models(asked: argparse.Namespace, images: int) -> None:
    """Print a line a model and fraction of zeros: dense in both orders, and accelerated."""
    import transformers

    x = torch.randn(images, 3, asked.side, asked.side)
    for name in asked.models:
        kind, depths, wider = MODELS[name]
        sizes = [64 * wider, 128 * wider, 256 * wider, 512 * wider]
        config = transformers.ResNetConfig(embedding_size=64, hidden_sizes=sizes, depths=depths, layer_type=kind)
        dense = transformers.ResNetForImageClassification(config).eval()
        settled(dense, x)
        last = copy.deepcopy(dense).to(memory_format=torch.channels_last)
        for zeros in asked.zeros:
            sparse = copy.deepcopy(dense)
            with torch.no_grad():
                for module in sparse.modules():
                    if isinstance(module, (nn.Conv2d, nn.Linear)):
                        module.weight.copy_(pruned(module.weight, zeros))
            settled(sparse, x)
            chosen = engine.accelerate(sparse, sample=x)
            calls = {
                "dense": partial(dense, x),
                "last": partial(last, x.to(memory_format=torch.channels_last)),
                "sparse": partial(sparse, x),
            }
            found = best(calls, asked)
            of = f"{len(chosen.sparse)} of {len(chosen.layers)} layers"
            times = ", ".join(f"{which} {each * 1e3:.1f} ms" for which, each in found.items())
            faster = min(found["dense"], found["last"]) / found["sparse"]
            print(f"{name}, {images} × {asked.side}², {zeros:.0%}: {times}: {faster:.2f}× ({of})", flush=True)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["layers", "models"], choices=["layers", "models"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--zeros", nargs="+", type=float, default=[0.8, 0.9, 0.95])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--processor-time", action="store_true", help="of one thread, on a machine that others use")
    sets = [name for name, value in INSTRUCTIONS.items() if value > 0]
    parser.add_argument("--instructions", choices=sets, default=engine.instructions(), help="of the engine, for layers")
    parser.add_argument("--json", type=Path, help="rows of layers, for break_even.py")
    asked = parser.parse_args()
    torch.manual_seed(0)
    print(machine(), engine.instructions())
    rows = []
    for images in asked.batch_sizes:
        if "layers" in asked.only:
            rows += layers(asked, images)
        if "models" in asked.only:
            models(asked, images)
    if asked.json is not None:
        asked.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
