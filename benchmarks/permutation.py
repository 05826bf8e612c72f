"""What an order of channels is worth: a model pruned to 2:4 at once, with and without, beside the dense one.

    python benchmarks/permutation.py DIR [SECONDS]

Prints kept |w| and how far the last hidden states move, relative to their norm, on sequences of random tokens.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from sparsify import Manager, Recipe, permute_for_n_m
from sparsify.pretrained import load

RECIPE = """
version: 1
modifiers:
  - {type: prune, pattern: 2:4, sparsity: {from: 0, to: 0.5, curve: one-shot}, window: {begin: 0}}
"""


def states(model: nn.Module) -> Tensor:
    """Return the last hidden states of 32 sequences of 64 random tokens."""
    made = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20_000, (32, 64), generator=made)
    with torch.no_grad():
        found: Tensor = model(input_ids=ids).last_hidden_state
    return found


def pruned(model: nn.Module) -> nn.Module:
    """Prune a model at once, without training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    manager = Manager(Recipe.parse(RECIPE)).apply(model, optimizer, total_steps=1)
    manager.on_step_begin()
    manager.on_before_optimizer_step()
    optimizer.step()
    manager.on_step_end()
    manager.finalize()
    return model


def main(folder: str, seconds: float) -> None:
    """Measure one model."""
    dense = states(load(folder))
    model = load(folder)
    found = permute_for_n_m(model, seconds=seconds)
    for name, kept in (("blocks", found.total), ("all targets", found.model)):
        print(f"kept |w|, {name}: {kept.shares[0]:.2%} -> {kept.shares[1]:.2%}")
    print(f"searched {found.seconds:.0f} s, ended by itself: {found.in_time}; outputs differ by {found.difference:.1g}")
    for name, one in (("without", load(folder)), ("with", model)):
        moved = states(pruned(one)) - dense
        print(f"2:4 at once, {name}: last hidden states off by {float(moved.norm() / dense.norm()):.2%}")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 600.0)
