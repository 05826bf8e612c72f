"""Lottery tickets on scikit-learn's digits: the ticket, a random mask, and the ticket's mask over new weights.

A network of 64-300-100-10 is trained under the recipe `lottery-ticket`. The mask of every round is then trained three
times for as long as a round takes: over the weights that the ticket began with, over those with a random mask of the
same density in every matrix, and over new weights. Means over seeds; and how far the tickets of two seeds overlap.

    python benchmarks/tickets.py [--seeds 5] [--rounds 14] [--every 600] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from sparsify import Manager
from sparsify.masking.packing import unpack

BATCH = 64
Masks = dict[str, Tensor]


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images and digits to train on, and those to test on: a third, the same in every run."""
    found = load_digits()
    images, digits = torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    test, train = order[:600], order[600:]
    return images[train], digits[train], images[test], digits[test]


def network(seed: int) -> nn.Sequential:
    """Return a network with random weights."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, digits: Tensor, manager: Manager | None = None
) -> None:
    """Make one step on a random batch."""
    chosen = torch.randint(len(digits), (BATCH,))
    if manager:
        manager.on_step_begin()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images[chosen]), digits[chosen]).backward()
    if manager:
        manager.on_before_optimizer_step()
    optimizer.step()
    if manager:
        manager.on_step_end()


@torch.no_grad()
def put(model: nn.Module, masks: Masks) -> None:
    """Set what is pruned to zero."""
    for name, mask in masks.items():
        model.get_parameter(name).mul_(mask)


def accuracy_of(model: nn.Module, masks: Masks, steps: int, seed: int) -> float:
    """Train a model under masks; return its accuracy on the test images."""
    images, digits, test, wanted = data()
    torch.manual_seed(1000 + seed)
    put(model, masks)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.2e-3)
    for _ in range(steps):
        step(model, optimizer, images, digits)
        put(model, masks)
    with torch.no_grad():
        return float((model(test).argmax(1) == wanted).float().mean())


def tickets(seed: int, rounds: int, every: int) -> list[Masks]:
    """Return the masks of all rounds, found by the recipe."""
    images, digits, *_ = data()
    model = network(seed)
    torch.manual_seed(1000 + seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.2e-3)
    manager = Manager.from_recipe("lottery-ticket", rounds=rounds, every=every, targets="type:Linear")
    manager.apply(model, optimizer, total_steps=every * (rounds + 1))
    for _ in range(every * (rounds + 1)):
        step(model, optimizer, images, digits, manager)
    saved = manager.state_dict()["modifiers"]["main/rewind"]["tickets"]
    shapes = {name: tuple(model.get_parameter(name).shape) for name in next(iter(saved.values()))}
    return [{n: unpack(m, shapes[n]) for n, m in saved[number].items()} for number in sorted(saved, key=int)]


def shuffled(masks: Masks, seed: int) -> Masks:
    """Return random masks that keep as many weights of every matrix."""
    made = torch.Generator().manual_seed(seed)
    return {n: mask.flatten()[torch.randperm(mask.numel(), generator=made)].view_as(mask) for n, mask in masks.items()}


def overlap(one: Masks, other: Masks) -> tuple[float, float]:
    """Return the Jaccard index of two tickets, and that of independent masks as dense in every matrix."""
    both = sum(int((one[n] & other[n]).sum()) for n in one)
    either = sum(int((one[n] | other[n]).sum()) for n in one)
    chance = sum(float(one[n].double().mean() * other[n].double().mean()) * one[n].numel() for n in one)
    kept = sum(int(one[n].sum()) + int(other[n].sum()) for n in one)
    return both / either, chance / (kept - chance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--every", type=int, default=600)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = [tickets(seed, asked.rounds, asked.every) for seed in range(asked.seeds)]
    rows = []
    print("left      ticket          random mask     new weights     overlap of two seeds (by chance)")
    for number in range(asked.rounds):
        masks = [own[number] for own in found]
        left = statistics.mean(
            sum(int(m.sum()) for m in own.values()) / sum(m.numel() for m in own.values()) for own in masks
        )
        reached = {"ticket": [], "random": [], "new": []}  # type: dict[str, list[float]]
        for seed, own in enumerate(masks):
            reached["ticket"].append(accuracy_of(network(seed), own, asked.every, seed))
            reached["random"].append(accuracy_of(network(seed), shuffled(own, seed), asked.every, seed))
            reached["new"].append(accuracy_of(network(seed + 500), copy.deepcopy(own), asked.every, seed))
        pairs = [overlap(masks[a], masks[b]) for a in range(len(masks)) for b in range(a)]
        means = [statistics.mean(values) for values in zip(*pairs, strict=True)] if pairs else [float("nan")] * 2
        row = {"left": left, **reached, "overlap": means[0], "by_chance": means[1]}
        rows.append(row)
        words = [f"{statistics.mean(v):.2%} ± {statistics.pstdev(v):.2%}" for v in reached.values()]
        print(f"{left:6.2%}    {words[0]:<16}{words[1]:<16}{words[2]:<16}{means[0]:.3f} ({means[1]:.3f})", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
