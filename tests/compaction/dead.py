"""Ways in which heads and neurons die, for the tests of compaction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsify.anatomy import Attention, FeedForward, read
from sparsify.layers import Weight


def empty_rows(weight: Weight, rows: Tensor, *, bias: bool = True) -> None:
    """Set rows (int64) of a weight, and of its bias, to zero."""
    for part in (weight, *([found] if bias and (found := weight.bias()) is not None else [])):
        cube = part.cube(part.tensor).clone()
        cube[rows] = 0
        part.tensor.copy_(part.uncube(cube))


def empty_columns(weight: Weight, columns: Tensor) -> None:
    """Set columns (int64) of a weight to zero."""
    cube = weight.cube(weight.tensor).clone()
    cube[:, :, columns] = 0
    weight.tensor.copy_(weight.uncube(cube))


def lines(units: Tensor, size: int) -> Tensor:
    """Return the rows, or columns, of units of a size (int64)."""
    return (units[:, None] * size + torch.arange(size)).flatten()


@torch.no_grad()
def kill_neurons(block: FeedForward, units: Tensor) -> None:
    """Let neurons (int64) die as the pattern has them: rows of up and gate with biases, columns of down."""
    for weight in [block.up] + ([block.gate] if block.gate is not None else []):
        empty_rows(weight, lines(units, weight.geometry.rows // block.neurons))
    empty_columns(block.down, units)


@torch.no_grad()
def kill_heads(block: Attention, groups: Tensor) -> None:
    """Let heads (with grouped queries, groups; int64) die as the pattern has them."""
    for weight in block.projections:
        empty_rows(weight, lines(groups, weight.geometry.rows // block.groups))
    empty_columns(block.output, lines(groups, block.output.geometry.columns // block.groups))


def kill(model: nn.Module, *, equal: bool = False) -> int:
    """Let a quarter of the neurons (some more in some blocks, unless `equal`) and a head of each block die.

    Returns how many units died.
    """
    anatomy: Any = read(model)
    made, count = torch.Generator().manual_seed(0), 0
    for number, block in enumerate(anatomy.feed_forwards):
        if not block.doubt:
            gone = max(block.neurons // 4 + (0 if equal else number % 3), 1)
            kill_neurons(block, torch.randperm(block.neurons, generator=made)[:gone])
            count += gone
    for number, block in enumerate(anatomy.attentions):
        if not block.doubt and block.groups > 1:
            kill_heads(block, torch.tensor([0 if equal or block.shared else number % block.groups]))
            count += 1
    return count
