"""Training steps of copies of one BERT that take turns: what a recipe costs, as a ratio to the dense step beside it.

The time spent in hooks is shown too: it does not see what they do to the caches of the rest of a step, but the
machine's noise, of several percent of a step, hardly reaches it.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

from sparsify import Manager, Recipe
from sparsify.benchmarking.machine import machine

BATCH, LENGTH = 16, 128


def build(layers: int) -> nn.Module:
    """Return a BERT-base of fewer layers with random weights, no dropout."""
    import transformers

    config = transformers.BertConfig(
        num_hidden_layers=layers, vocab_size=2000, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return transformers.BertForSequenceClassification(config)


def stepper(
    model: nn.Module, recipe: str | None, clock: Callable[[], float] = time.perf_counter
) -> Callable[[], tuple[float, float]]:
    """Return a function that makes one training step, under a recipe's text or without.

    It returns the step's seconds by a clock, and those of them that were spent in hooks.
    """
    inputs = torch.randint(0, 2000, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(BATCH) % 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    manager = Manager(Recipe.parse(recipe)).apply(model, optimizer, total_steps=200_000) if recipe else None

    def hook(name: str) -> float:
        start = clock()
        if manager:
            getattr(manager, name)()
        return clock() - start

    def step() -> tuple[float, float]:
        start = clock()
        hooks = hook("on_step_begin")
        model(input_ids=inputs, labels=labels).loss.backward()
        hooks += hook("on_before_optimizer_step")
        optimizer.step()
        hooks += hook("on_step_end")
        optimizer.zero_grad()
        return clock() - start, hooks

    return step


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags of every benchmark of steps."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--rounds", type=int, default=30)
    found.add_argument("--layers", type=int, default=4)
    found.add_argument("--only", help="a part of a case's name")
    found.add_argument("--json", help="write the figures to a file")
    return found


def compare(cases: Mapping[str, str], arguments: argparse.Namespace) -> None:
    """Let the dense step and those under recipes take turns, in a new order each round; print and write ratios."""
    torch.manual_seed(0)
    base = build(arguments.layers)
    steps = {"dense": stepper(base, None)}
    for name, text in cases.items():
        if not arguments.only or arguments.only in name:
            steps[name] = stepper(copy.deepcopy(base), text)
    times: dict[str, list[float]] = {name: [] for name in steps}
    hooks: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for turn in range(arguments.rounds + 2):
        random.Random(turn).shuffle(order)
        for name in order:
            spent, inside = steps[name]()
            if turn >= 2:
                times[name].append(spent)
                hooks[name].append(inside)
        print(f"round {turn - 1} of {arguments.rounds}" if turn >= 2 else "warming up", file=sys.stderr, flush=True)
    print(machine())
    dense_step = statistics.median(times["dense"])
    print(f"dense step: {dense_step:.3f} s, median of {arguments.rounds} rounds")
    figures = {}
    for name in steps:
        ratios = [mine / dense for mine, dense in zip(times[name], times["dense"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        share = statistics.median(hooks[name]) / dense_step
        figures[name] = {"ratio": middle, "quartiles": [low, high], "hooks": share}
        print(f"{name:32s} ×{middle:.3f}  (quartiles {low:.3f} to {high:.3f})  hooks alone {share:.1%} of a dense step")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"machine": machine(), "figures": figures}, file, indent=2)
