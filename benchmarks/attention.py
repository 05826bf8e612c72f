"""The engine's attention beside torch's as transformers call it, then whole encoders on padded texts, in one run.

Masks are as transformers give them: of bool, [batch, 1, queries, keys]. Lengths are those of the texts of a folder of
SST-2 (`dev.tsv`), by words ÷ 0.8, as many tokens as a batch has at most. Ratios are of the shortest times.

    python benchmarks/attention.py DATA [--only attention models] [--folder MODEL] [--rounds 30] [--seconds 2]
        [--processor-time]
"""

from __future__ import annotations

import argparse
import copy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from shortest import best  # beside this file
from torch import Tensor, nn

from sparsify import engine
from sparsify.benchmarking.machine import machine
from sparsify.engine import attending

SHAPES = {
    "MiniLM": [(32, 12, 12, 64, 32), (16, 12, 12, 128, 32)],
    "BERT-base": [(16, 12, 12, 128, 64)],
    "grouped": [(2, 16, 4, 256, 64)],
}
"""Batch, heads of queries, heads of keys, tokens, width of a head."""


def lengths_of(data: Path, batch: int, most: int) -> Tensor:
    """Return how many tokens each of the first texts has."""
    rows = (data / "dev.tsv").read_text().splitlines()[:batch]
    return torch.tensor([min(most, 2 + round(len(row.split()[1:]) / 0.8)) for row in rows])


def masks(lengths: Tensor, tokens: int) -> dict[str, tuple[Tensor | None, bool]]:
    """Return masks, and whether attention is causal without one."""

    def whole(seen: Tensor) -> Tensor:
        return seen[:, None, None].expand(len(lengths), 1, tokens, tokens).contiguous()

    places = torch.arange(tokens)
    half = torch.linspace(tokens // 2, tokens, len(lengths)).long()
    below = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    return {
        "none": (None, False),
        "padding, SST-2": (whole(places < lengths[:, None]), False),
        "padding, a quarter": (whole(places < half[:, None]), False),
        "causal": (None, True),
        "causal, padding, a quarter": (whole(places >= tokens - half[:, None]) & below, False),
    }


def attention(asked: argparse.Namespace) -> None:
    """Print a line a shape and mask."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    for name, shapes in SHAPES.items():
        for batch, heads, shared, tokens, width in shapes:
            drawn = [torch.randn(batch, tokens, each, width).transpose(1, 2) for each in (heads, shared, shared)]
            for kind, (mask, causal) in masks(lengths_of(asked.data, batch, tokens), tokens).items():
                module = SimpleNamespace(is_causal=causal, num_key_value_groups=heads // shared)
                calls = {
                    "torch": partial(sdpa_attention_forward, module, *drawn, mask),
                    "engine": partial(engine.attend, *drawn, width**-0.5, mask=mask, causal=causal),
                }
                found = best(calls, asked)
                times = ", ".join(f"{which} {each * 1e3:.2f} ms" for which, each in found.items())
                faster = found["torch"] / found["engine"]
                print(f"{name}, {batch} × {tokens}, {kind}: {times}: {faster:.2f}×", flush=True)


def models(asked: argparse.Namespace) -> None:
    """Print a line a batch: an encoder with 90 % zeros, dense, sparse with torch's attention, and with the engine's."""
    from transformers import AutoModel

    dense = AutoModel.from_pretrained(asked.folder).eval()
    for module in dense.encoder.modules():
        if isinstance(module, nn.Linear):
            module.weight.mul_(torch.rand_like(module.weight) >= 0.9)
    for batch, tokens in ((32, 64), (16, 128)):
        lengths = lengths_of(asked.data, batch, tokens)
        ids = torch.randint(dense.config.vocab_size, (batch, tokens))
        given = {"input_ids": ids, "attention_mask": (torch.arange(tokens) < lengths[:, None]).long()}
        sparse = copy.deepcopy(dense)
        chosen = engine.accelerate(sparse, sample=given)
        for name, inputs in (("padding, SST-2", given), ("none", {"input_ids": ids})):
            half = copy.deepcopy(sparse)
            attending.give_back(half)
            every = {"dense": dense, "torch's attention": half, "the engine's": sparse}
            found = best({which: partial(model, **inputs) for which, model in every.items()}, asked)
            times = ", ".join(
                f"{which} {each * 1e3:.1f} ms ({found['dense'] / each:.2f}×)" for which, each in found.items()
            )
            tried = f"attention {chosen.attention_faster or 0:.2f}×, {'taken' if chosen.attention else 'not taken'}"
            print(f"{asked.folder.name}, {batch} × {tokens}, {name}: {times} ({tried})", flush=True)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", default=["attention", "models"], choices=["attention", "models"])
    parser.add_argument("--folder", type=Path, help="an encoder of transformers; for `models`")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--processor-time", action="store_true", help="of one thread, on a machine that others use")
    asked = parser.parse_args()
    if asked.folder is None and "models" in asked.only:
        parser.error("`models` need --folder, that of an encoder of transformers (or: --only attention)")
    torch.manual_seed(0)
    print(machine(), engine.instructions())
    for part in asked.only:
        {"attention": attention, "models": models}[part](asked)


if __name__ == "__main__":
    main()
