"""Neurons of a feed-forward block, and features within heads, put in another order: the model computes the same."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsify.anatomy import Anatomy, Attention, FeedForward, Layer
from sparsify.layers import Weight

Block = Attention | FeedForward


def blocks(part: Anatomy | Layer) -> list[Block]:
    """Return the blocks of a layer, or of a whole model."""
    return [*part.attentions, *part.feed_forwards]


def reader(block: Block) -> Weight:
    """Return the matrix whose columns are put in order: output, or down."""
    return block.output if isinstance(block, Attention) else block.down


def problem(block: Block, m: int) -> str:
    """Return why a block's columns cannot be put in an order that keeps groups of m; empty where they can."""
    if block.doubt:
        return block.doubt
    if isinstance(block, FeedForward):
        if block.neurons % m:
            return f"{m} does not divide {block.neurons} neurons"
        odd = any(weight.geometry.rows % block.neurons for weight in _writers(block))
        return "its rows are not those of its neurons" if odd else ""
    size = block.head_size
    if size % m:
        return f"{m} does not divide the {size} features of a head"
    each, left = divmod(block.value.geometry.rows, block.groups)
    fit = not left and (each >= size if block.interleaved else each == size)
    return "" if fit else "its values have other features than its output reads"


def free(block: Block) -> list[Tensor]:
    """Return the magnitudes of the columns that may change places with each other, [columns, rows], a tensor each.

    A feed-forward block is one; an attention block is one for every key and value head, of as many columns as a head
    has features: the query heads that share it can only have one order, so their columns stand beside each other.
    """
    cube = reader(block).cube(reader(block).tensor).flatten(1).abs()
    if isinstance(block, FeedForward):
        return [cube.T.contiguous()]
    heads = cube.view(len(cube), block.groups, block.heads // block.groups, block.head_size)
    return [heads[:, group].flatten(0, 1).T.contiguous() for group in range(block.groups)]


@torch.no_grad()
def put(block: Block, orders: list[Tensor]) -> None:
    """Put what `free` returns in these orders, in place: rows with their biases, and columns.

    Place i gets what stood at `order[i]` (int64).
    """
    output = reader(block)
    columns = _columns(block, orders)
    _write(output, output.cube(output.tensor)[..., columns.to(output.tensor.device)])
    for weight in _writers(block):
        rows = _rows(block, weight, orders)
        bias = weight.bias() if weight.layout != "bias" else None
        for part in (weight, *([bias] if bias is not None else [])):
            _write(part, part.cube(part.tensor)[rows.to(part.tensor.device)])


def identity(block: Block) -> list[Tensor]:
    """Return the orders in which everything stays where it is."""
    if isinstance(block, FeedForward):
        return [torch.arange(block.neurons)]
    return [torch.arange(block.head_size) for _ in range(block.groups)]


def _writers(block: Block) -> list[Weight]:
    """Return the matrices whose rows are what the columns read."""
    if isinstance(block, Attention):
        return [block.value]
    return [block.up] if block.gate is None else [block.up, block.gate]


def _columns(block: Block, orders: list[Tensor]) -> Tensor:
    """Return which column comes to each place of the matrix that reads."""
    if isinstance(block, FeedForward):
        return orders[0]
    shared = torch.stack(orders).repeat_interleave(block.heads // block.groups, 0)
    starts = torch.arange(block.heads)[:, None] * block.head_size
    return (starts + shared).flatten()


def _rows(block: Block, weight: Weight, orders: list[Tensor]) -> Tensor:
    """Return which row comes to each place of a matrix that writes.

    Where each group's query, key and value lie together, its last rows are the value's. Where gate and up alternate,
    two neighbouring rows are a neuron.
    """
    rows = weight.geometry.rows
    if isinstance(block, FeedForward):
        each = rows // block.neurons
        return (orders[0][:, None] * each + torch.arange(each)).flatten()
    found = torch.arange(rows).view(block.groups, -1)
    size = block.head_size
    values = found[:, -size:]
    found[:, -size:] = values.gather(1, torch.stack(orders))
    return found.flatten()


def _write(weight: Weight, cube: Tensor) -> None:
    weight.tensor.copy_(weight.uncube(cube))
