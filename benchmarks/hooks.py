"""What the hooks cost: a training step with them ÷ the same step without, interleaved in one run.

BERT-base width, 4 layers, batch 16 × 128, AdamW, CPU. Aim: at most 1.02 with `every: 50`, 1.05 with
`every: 1`. Several copies of the model take turns, in a new order each round; the ratio is the median over
rounds of sparse ÷ dense of the same round.

    python benchmarks/hooks.py [--rounds N] [--layers L] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import time
from collections.abc import Callable

import torch
from machine import machine
from torch import nn

from sparsify import Manager, Recipe

RECIPE = """
version: 1
modifiers:
  - type: prune
    pattern: {pattern}
    scope: {scope}
    sparsity: {{from: {start}, to: {to}}}
    window: {{begin: 0, end: 100000, every: {every}}}
"""

CASES = {
    "unstructured tensor every 50": ("unstructured", "tensor", 0.05, 0.9, 50),
    "unstructured tensor every 1": ("unstructured", "tensor", 0.05, 0.9, 1),
    "unstructured global every 1": ("unstructured", "global", 0.05, 0.9, 1),
    "unstructured erk every 1": ("unstructured", "erk", 0.05, 0.9, 1),
    "unstructured row every 1": ("unstructured", "row", 0.05, 0.9, 1),
    "random tensor every 50": ("unstructured", "tensor", 0.05, 0.9, 50),
    "block 4x1 every 50": ("{type: block, shape: [4, 1]}", "tensor", 0.05, 0.9, 50),
    "block 4x1 every 1": ("{type: block, shape: [4, 1]}", "tensor", 0.05, 0.9, 1),
    "block 32x32 every 1": ("{type: block, shape: [32, 32]}", "global", 0.05, 0.9, 1),
    "row every 1": ("row", "tensor", 0.05, 0.9, 1),
    "column every 1": ("column", "tensor", 0.05, 0.9, 1),
    "2:4 every 50": ("2:4", "tensor", 0.05, 0.5, 50),
    "2:4 every 1": ("2:4", "tensor", 0.05, 0.5, 1),
    "2:4 late (from 0.4) every 1": ("2:4", "tensor", 0.4, 0.5, 1),
    "head every 50": ("head", "global", 0.05, 0.9, 50),
    "head every 1": ("head", "global", 0.05, 0.9, 1),
    "neuron every 50": ("neuron", "global", 0.05, 0.9, 50),
    "neuron every 1": ("neuron", "global", 0.05, 0.9, 1),
}


def build(layers: int) -> nn.Module:
    """Return a BERT-base of fewer layers with random weights, no dropout."""
    import transformers

    config = transformers.BertConfig(
        num_hidden_layers=layers, vocab_size=2000, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return transformers.BertForSequenceClassification(config)


def stepper(model: nn.Module, manager: Manager | None, optimizer: torch.optim.Optimizer) -> Callable[[], float]:
    """Return a function that makes one training step and returns its seconds."""
    inputs = torch.randint(0, 2000, (16, 128), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16) % 2

    def step() -> float:
        start = time.perf_counter()
        if manager:
            manager.on_step_begin()
        model(input_ids=inputs, labels=labels).loss.backward()
        if manager:
            manager.on_before_optimizer_step()
        optimizer.step()
        if manager:
            manager.on_step_end()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return step


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--only", help="a part of a case's name")
    parser.add_argument("--json", help="write the figures to a file")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    base = build(arguments.layers)
    steps = {"dense": stepper(base, None, torch.optim.AdamW(base.parameters(), lr=1e-5))}
    for name, (pattern, scope, start, to, every) in CASES.items():
        if arguments.only and arguments.only not in name:
            continue
        model = copy.deepcopy(base)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        text = RECIPE.format(pattern=pattern, scope=scope, start=start, to=to, every=every)
        if "random" in name:
            text = text.replace("pattern:", "criterion: random\n    pattern:", 1)
        manager = Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=200_000)
        steps[name] = stepper(model, manager, optimizer)
    times: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for turn in range(arguments.rounds + 2):
        random.Random(turn).shuffle(order)
        for name in order:
            spent = steps[name]()
            if turn >= 2:
                times[name].append(spent)
    print(machine())
    print(f"dense step: {statistics.median(times['dense']):.3f} s, median of {arguments.rounds} rounds")
    figures = {}
    for name in steps:
        ratios = [mine / dense for mine, dense in zip(times[name], times["dense"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        figures[name] = {"ratio": middle, "quartiles": [low, high]}
        print(f"{name:32s} ×{middle:.3f}  (quartiles {low:.3f} to {high:.3f})")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"machine": machine(), "figures": figures}, file, indent=2)


if __name__ == "__main__":
    main()
