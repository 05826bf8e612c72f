"""Training steps of copies of one BERT that take turns: what a recipe costs, as a ratio to the dense step beside it."""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from machine import machine
from torch import nn

from sparsify import Manager, Recipe

BATCH, LENGTH = 16, 128


def build(layers: int) -> nn.Module:
    """Return a BERT-base of fewer layers with random weights, no dropout."""
    import transformers

    config = transformers.BertConfig(
        num_hidden_layers=layers, vocab_size=2000, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return transformers.BertForSequenceClassification(config)


def stepper(model: nn.Module, recipe: str | None) -> Callable[[], float]:
    """Return a function that makes one training step, under a recipe's text or without, and returns its seconds."""
    inputs = torch.randint(0, 2000, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(BATCH) % 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    manager = Manager(Recipe.parse(recipe)).apply(model, optimizer, total_steps=200_000) if recipe else None

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
