"""Speed of compact models: FLOPs against time, in torch and ONNX Runtime, dense and compact side by side in one run.

BERT-base's shapes with as many dead heads and neurons as the published hybrid-filled models had left (74 and 59 % of
the linear weights gone; weights are random, what is dead differs between layers), and again with widths that are
multiples of 8 and 32; then ResNet-50 and a detector of the kind of YOLO with coupled channels at about half the
operations.

    python benchmarks/compact.py [--only bert resnet detector] [--batch-sizes 1 16] [--lengths 128 384] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsify import compact
from sparsify.anatomy import read
from sparsify.benchmarking.flops import count_flops
from sparsify.benchmarking.machine import machine
from sparsify.layers import Weight
from sparsify.report.latency import timed
from sparsify.structure.graph import channels

PUBLISHED = {"74 % gone (2.44× published)": (4, 0.23), "59 % gone (1.84× published)": (6, 0.37)}
"""Heads left of 12, and the share of neurons left: linear weights 26 and 41 %."""


@torch.no_grad()
def empty(weight: Weight, kept: torch.Tensor, *, columns: bool = False) -> None:
    """Set what is not kept (bool, units) to zero: runs of rows with their biases, or of columns."""
    parts = [weight] if columns or weight.bias() is None else [weight, weight.bias()]
    for part in parts:
        cube = part.cube(part.tensor)
        lines = kept.repeat_interleave(cube.shape[2 if columns else 0] // len(kept))
        cube[(slice(None), slice(None), ~lines) if columns else ~lines] = 0


def bert(heads: int, share: float) -> nn.Module:
    """Return BERT-base with random weights, of which in every layer about so many heads and neurons live."""
    from transformers import BertConfig, BertForQuestionAnswering

    torch.manual_seed(0)
    model = BertForQuestionAnswering(BertConfig()).eval()
    found: Any = read(model)
    for number, (attention, ffn) in enumerate(zip(found.attentions, found.feed_forwards, strict=True)):
        more = number % 3 - 1  # layers differ, as they do after a training
        alive = torch.zeros(12, dtype=torch.bool)
        alive[torch.randperm(12)[: heads + more]] = True
        for weight in attention.projections:
            empty(weight, alive)
        empty(attention.output, alive, columns=True)
        alive = torch.rand(3072) < share * (1 + 0.2 * more)
        empty(ffn.up, alive)
        empty(ffn.down, alive, columns=True)
    return model


@torch.no_grad()
def narrow(model: nn.Module, share: float) -> nn.Module:
    """Let so many of the channels of every set die."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for each in channels(model).sets:
        gone = torch.randperm(each.count)[: int(each.count * share)]
        for side in each.dying:
            tensors[side.name].movedim(side.axis, 0)[side.places[torch.isin(side.groups, gone)]] = 0
    return model


def resnet() -> nn.Module:
    """Return ResNet-50 with random weights, in which 30 % of the channels are dead: about half of its operations."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    return narrow(ResNetForImageClassification(ResNetConfig()).eval(), 0.3)


def detector() -> nn.Module:
    """Return a detector of the kind of YOLO with random weights, in which 30 % of the channels are dead."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests import networks

    torch.manual_seed(0)
    return narrow(Wide(networks).eval(), 0.3)


class Wide(nn.Module):
    """Backbone with C2f blocks and SPPF, and a neck, of real widths."""

    def __init__(self, networks: Any) -> None:
        super().__init__()
        conv = networks.conv
        self.stem, self.down1, self.down2 = conv(3, 32, stride=2), conv(32, 64, stride=2), conv(64, 128, stride=2)
        self.cv1, self.m1, self.m2, self.cv2 = conv(128, 128, 1), conv(64, 64), conv(64, 64), conv(192, 128, 1)
        self.down3, self.sppf1, self.sppf2 = conv(128, 256, stride=2), conv(256, 128, 1), conv(384, 256, 1)
        self.neck, self.head = conv(384, 128), nn.Sequential(conv(128, 128), nn.Conv2d(128, 64, 1))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return a map of predictions [n, 64, height / 8, width / 8]."""
        x = self.down2(self.down1(self.stem(pixel_values)))
        first, second = self.cv1(x).chunk(2, 1)
        high = self.cv2(torch.cat([first, second, second + self.m2(self.m1(second))], 1))
        low = self.sppf1(self.down3(high))
        pooled = nn.functional.max_pool2d(low, 5, 1, 2)
        low = self.sppf2(torch.cat([low, pooled, nn.functional.max_pool2d(pooled, 5, 1, 2)], 1))
        up = nn.functional.interpolate(low, scale_factor=2)
        found: torch.Tensor = self.head(self.neck(torch.cat([up, high], 1)))
        return found


def inputs(model: nn.Module, batch: int, length: int) -> dict[str, torch.Tensor]:
    """Return random inputs: tokens, or images of 224 × 224 (of a detector 320 × 320)."""
    if hasattr(model, "bert"):
        return {"input_ids": torch.randint(1000, 30000, (batch, length))}
    side = 320 if isinstance(model, Wide) else 224
    return {"pixel_values": torch.randn(batch, 3, side, side)}


def in_runtime(model: nn.Module, given: dict[str, torch.Tensor]) -> Any:
    """Return a call of the model in ONNX Runtime."""
    import onnxruntime

    path = Path(tempfile.mkdtemp()) / "model.onnx"
    axes = {name: {0: torch.export.Dim("batch"), **({1: torch.export.Dim("sequence")} if value.dim() == 2 else {})}
            for name, value in given.items()}  # fmt: skip
    torch.onnx.export(
        model, (), str(path), kwargs=given, dynamo=True, dynamic_shapes=axes, opset_version=18, verbose=False
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, {name: value.numpy() for name, value in feed.items()})


def measured(name: str, models: dict[str, nn.Module], arguments: argparse.Namespace) -> Iterator[str]:
    """Yield rows: the first model is the dense one."""
    dense = next(iter(models.values()))
    lengths = arguments.lengths if hasattr(dense, "bert") else [0]
    sample = inputs(dense, 2, 16)
    runtimes = [in_runtime(model, sample) for model in models.values()] if arguments.runtime else []
    for batch in arguments.batch_sizes:
        for length in lengths:
            given = inputs(dense, batch, length)
            flops = [count_flops(model, given).dense for model in models.values()]
            calls = [lambda m=model, given=given: m(**given) for model in models.values()]
            calls += [lambda r=runtime, given=given: r(given) for runtime in runtimes]
            with torch.inference_mode():
                times = timed(calls, arguments.rounds, warm_up=1)
            count = len(models)
            for place, label in enumerate(list(models)[1:], 1):
                promised = flops[0] / flops[place]
                cells = []
                for engine in range(len(calls) // count):
                    first, mine = times[engine * count], times[engine * count + place]
                    ratio = statistics.median(one / other for one, other in zip(first, mine, strict=True))
                    cells.append(f"{ratio:.2f}× ({ratio / promised:.0%})")
                where = f"{batch} × {length}" if length else f"{batch}"
                yield f"| {name} | {label} | {where} | {promised:.2f}× | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["bert", "resnet", "detector"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 384])
    parser.add_argument("--gone", type=int, nargs="+", default=[74, 59], help="percent, of BERT's linear weights")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runtime", action="store_true", help="in ONNX Runtime, too")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    print("| model | compact | batch | FLOPs promise | torch | ONNX Runtime |\n|---|---|---|---|---|---|", flush=True)
    if "bert" in arguments.only:
        for label, (heads, share) in PUBLISHED.items():
            if int(label[:2]) not in arguments.gone:
                continue
            dense = bert(heads, share)
            models = {"dense": dense, "as it is": compact(dense), "align 8": compact(dense, align=8)}
            models["align 32"] = compact(dense, align=32)
            for row in measured(f"BERT-base, {label}", models, arguments):
                print(row, flush=True)
    for kind, make in (("resnet", resnet), ("detector", detector)):
        if kind in arguments.only:
            dense = make()
            models = {"dense": dense, "as it is": compact(dense), "align 8": compact(dense, align=8)}
            for row in measured(kind, models, arguments):
                print(row, flush=True)


if __name__ == "__main__":
    main()
