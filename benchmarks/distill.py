"""What distillation costs, with and without a cache: a step ÷ the dense step, the three taking turns.

    python benchmarks/distill.py [--rounds 20] [--teacher-layers 12] [--json FILE]

MiniLM's shape (6 layers, width 384; the teacher has 12), classification, batch 32 × 32 tokens, AdamW. The batches come
again and again, so that after a first pass, which is left out, the cache knows them all. Aim: what the cache does in
`on_loss` takes at most 5 % of a step. The ratio is the median over rounds of a step ÷ the dense step of the same round.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from sparsify import Manager, Recipe
from sparsify.benchmarking.machine import machine

BATCH, LENGTH, BATCHES = 32, 32, 4
CASES = {"dense": None, "distilled": "", "distilled from the cache": ", cache: {}"}


def build(layers: int, seed: int) -> BertForSequenceClassification:
    """Return a model of MiniLM's width with random weights, no dropout."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForSequenceClassification(BertConfig(num_hidden_layers=layers, **sizes, **dropout))


def batches() -> list[dict[str, torch.Tensor]]:
    """Return batches of random tokens, half of the rows padded."""
    made = torch.Generator().manual_seed(0)
    lengths = [LENGTH if row % 2 else LENGTH // 2 + row % 8 for row in range(BATCH)]
    mask = torch.stack([(torch.arange(LENGTH) < length).long() for length in lengths])
    return [
        {
            "input_ids": torch.randint(5, 30_000, (BATCH, LENGTH), generator=made) * mask,
            "attention_mask": mask,
            "labels": torch.arange(BATCH) % 2,
        }
        for _ in range(BATCHES)
    ]


def stepper(model: nn.Module, teacher: nn.Module, cache: str | None) -> Callable[[int], tuple[float, float]]:
    """Return a function that makes a step on a batch; it returns its seconds, and those of them in `on_loss`."""
    inputs, optimizer = batches(), torch.optim.AdamW(model.parameters(), lr=1e-5)
    manager: Any = None
    if cache is not None:
        text = f"version: 1\nmodifiers:\n  - {{type: distill, logits: {{temperature: 2}}, hardness: 0.9{cache}}}\n"
        manager = Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=10_000, teacher=teacher)

    def step(number: int) -> tuple[float, float]:
        given, begin, inside = inputs[number % BATCHES], time.perf_counter(), 0.0
        if manager is not None:
            manager.on_step_begin()
        outputs = model(**given)
        loss = outputs.loss
        if manager is not None:
            before = time.perf_counter()
            loss = manager.on_loss(loss, outputs, given)
            inside = time.perf_counter() - before
        loss.backward()
        if manager is not None:
            manager.on_before_optimizer_step()
        optimizer.step()
        if manager is not None:
            manager.on_step_end()
        optimizer.zero_grad()
        return time.perf_counter() - begin, inside

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--teacher-layers", type=int, default=12)
    parser.add_argument("--json", help="write the figures to a file")
    arguments = parser.parse_args()
    base, teacher = build(6, 0), build(arguments.teacher_layers, 1)
    steps = {name: stepper(copy.deepcopy(base), teacher, cache) for name, cache in CASES.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for turn in range(-BATCHES, arguments.rounds):
        random.Random(turn).shuffle(order)
        for name in order:
            spent, inside = steps[name](turn)
            if turn >= 0:
                times[name].append(spent)
                losses[name].append(inside)
    dense = statistics.median(times["dense"])
    print(machine())
    print(f"batch {BATCH} × {LENGTH}; teacher of {arguments.teacher_layers} layers; {arguments.rounds} rounds")
    print(f"dense step: {dense:.3f} s")
    figures = {}
    for name in steps:
        ratios = [mine / theirs for mine, theirs in zip(times[name], times["dense"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        share = statistics.median(inside / whole for inside, whole in zip(losses[name], times[name], strict=True))
        figures[name] = {"ratio": middle, "quartiles": [low, high], "on_loss": share}
        print(f"{name:26s} ×{middle:.3f}  (quartiles {low:.3f} to {high:.3f})  on_loss {share:.1%} of its step")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"machine": machine(), "figures": figures}, file, indent=2)


if __name__ == "__main__":
    main()
