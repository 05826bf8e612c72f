"""How much of the magnitudes N:M masks keep: of a block in two orders, and of a whole model."""

from __future__ import annotations

from torch import Tensor

from sparsify.anatomy import Anatomy
from sparsify.anatomy.parts import DEFAULT
from sparsify.layers import Weight
from sparsify.permuting.found import BlockKept
from sparsify.structure import orders
from sparsify.structure.orders import Block
from sparsify.structure.permute import kept


def measured(block: Block, found: list[Tensor], n: int, m: int) -> BlockKept:
    """Return what is kept of a block that still has its first order."""
    free = orders.free(block)
    before = sum(kept(columns, n, m) for columns in free)
    after = sum(kept(columns[order.to(columns.device)], n, m) for columns, order in zip(free, found, strict=True))
    magnitude = sum(float(columns.double().sum()) for columns in free)
    plain = tuple(tuple(order.tolist()) for order in found)
    return BlockKept(magnitude, before, after, block.name, orders.reader(block).name, plain)


def kept_of(anatomy: Anatomy, n: int, m: int) -> tuple[float, float]:
    """Return the magnitude of all weights that are targets by default and that m fits, and what is kept of it."""
    magnitude, total = 0.0, 0.0
    seen: set[tuple[int, tuple[int, int] | None]] = set()
    for weight in anatomy.role(DEFAULT):
        key = (id(weight.parameter), weight.span)
        if key not in seen and weight.geometry.columns % m == 0:
            seen.add(key)
            part, whole = _kept_weight(weight, n, m)
            magnitude, total = magnitude + whole, total + part
    return magnitude, total


def _kept_weight(weight: Weight, n: int, m: int) -> tuple[float, float]:
    cube = weight.cube(weight.tensor).abs().double()
    groups = cube.reshape(-1, m)
    return float(groups.topk(n, dim=1).values.sum()), float(groups.sum())
