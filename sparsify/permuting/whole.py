"""A whole model put in the order that suits N:M: what may move is tried, the best order is searched, and checked."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.anatomy import Anatomy, read
from sparsify.applied import at_work
from sparsify.compaction.running import Runner
from sparsify.errors import CompactionError
from sparsify.layers import unwrap
from sparsify.layers.outline import remade
from sparsify.permuting.found import Kept, Permuted
from sparsify.permuting.measuring import kept_of, measured
from sparsify.progress import each
from sparsify.structure import orders
from sparsify.structure.orders import Block
from sparsify.structure.permute import search

SECONDS = 600.0
LEAST_SECONDS = 1.0
"""What the search of the smallest matrix may take, whatever its share is."""

TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4}
"""How far outputs may move, relative to their largest value, by the precision in which the models are run. Sums in
another order differ by 1e-16 in float64, but many a model computes its norms in float32 whatever it is given."""

Orders = dict[str, list[Tensor]]
"""The orders of each block, by its name."""


def permute_for_n_m(
    model: nn.Module,
    n: int = 2,
    m: int = 4,
    *,
    seconds: float = SECONDS,
    seed: int = 0,
    example_inputs: Any = None,
) -> Permuted:
    """Put channels in an order in which N:M masks along inputs keep more, in place; the model computes the same.

    Neurons of feed-forward blocks, and the features of value and output within each head, change their places; names,
    shapes and parameters stay what they are. It is meant for dense weights, before masks are made. The search takes at
    most so many `seconds` together; `example_inputs` (a tensor, a tuple of arguments, a mapping by name) are for models
    whose inputs cannot be guessed. Source: Pool & Yu, "Channel Permutations for N:M Sparsity" (2021).

    Raises CompactionError for a model that a manager is at work on, one without weights or blocks, or one that cannot
    be run; the model is then untouched.

    Examples:
        >>> import torch, sparsify
        >>> layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, 1).eval()
        >>> found = sparsify.permute_for_n_m(model, example_inputs=torch.randn(2, 5, 16))
        >>> before, after = found.total.shares  # of the sum of |w| that a mask of 2:4 keeps
        >>> after > before
        True
    """
    base = unwrap(model)
    anatomy = _check(base, n, m, seconds)
    runner = Runner(base, example_inputs)
    blocks, notes = _movable(base, anatomy, runner, m)
    start = time.monotonic()
    found, in_time = _searched(blocks, n, m, seed, start + seconds)
    took = time.monotonic() - start
    made = _copy(base)
    _put(made, found)
    difference = runner.difference(made)
    if not difference <= TOLERANCES[runner.dtype]:  # each kind of block was tried; this is all of them together
        raise CompactionError(f"with its channels in another order the model's outputs differ by {difference:.3g}")
    before = kept_of(anatomy, n, m)
    parts = [measured(block, found[block.name], n, m) for block in blocks]
    _put(base, found)
    whole = Kept(*before, kept_of(anatomy, n, m)[1])
    return Permuted(n, m, tuple(parts), whole, difference, took, in_time, tuple(notes))


def _check(model: nn.Module, n: int, m: int, seconds: float) -> Anatomy:
    if not 1 <= n < m:
        raise CompactionError(f"{n}:{m} is no pattern: n weights are kept of m, and n is less")
    if not seconds > 0 or math.isnan(seconds):
        raise CompactionError(f"seconds is {seconds}: a search takes some")
    if at_work(model):
        raise CompactionError("a manager is still applied to the model, and its masks would not fit the new order")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise CompactionError(f"{type(model).__name__} has no weights (they are on the meta device)")
    anatomy = read(model)
    if anatomy is None or not (anatomy.attentions or anatomy.feed_forwards):
        raise CompactionError(f"{type(model).__name__} has no attention or feed-forward block that is known")
    return anatomy


def _kinds(model: nn.Module, anatomy: Anatomy) -> dict[str, str]:
    """Return by the name of each block the class of its layer and the place in it: what is alike is tried together."""
    return {
        block.name: f"{type(model.get_submodule(layer.name)).__name__} {_place(block.name, layer.name)}"
        for layer in anatomy.layers
        for block in orders.blocks(layer)
    }


def _movable(model: nn.Module, anatomy: Anatomy, runner: Runner, m: int) -> tuple[list[Block], list[str]]:
    """Return the blocks that compute the same in any order, tried with a random one, and why others stay."""
    every = orders.blocks(anatomy)
    reasons = {block.name: orders.problem(block, m) for block in every}
    usable = [block for block in every if not reasons[block.name]]
    notes = [f"{block.name} stays as it is: {reasons[block.name]}" for block in every if reasons[block.name]]
    if not usable or not _moved_apart(model, usable, runner):
        return usable, notes
    kinds, good = _kinds(model, anatomy), list[Block]()
    for kind in dict.fromkeys(kinds[block.name] for block in usable):
        blocks = [block for block in usable if kinds[block.name] == kind]
        if reason := _moved_apart(model, blocks, runner):
            notes.append(f"{kind} stays as it is ({len(blocks)} of them): in another order {reason}")
        else:
            good += blocks
    return good, notes


def _moved_apart(model: nn.Module, blocks: list[Block], runner: Runner) -> str:
    """Return how a copy whose channels stand in a random order is not the same model; empty where it is."""
    made = _copy(model)
    mixed = torch.Generator().manual_seed(0)
    _put(made, {b.name: [torch.randperm(len(o), generator=mixed) for o in orders.identity(b)] for b in blocks})
    try:
        difference = runner.difference(made)
    except CompactionError as error:
        return str(error)
    return "" if difference <= TOLERANCES[runner.dtype] else f"its outputs would differ by {difference:.3g}"


def _searched(blocks: list[Block], n: int, m: int, seed: int, deadline: float) -> tuple[Orders, bool]:
    """Return the best orders found. Small matrices come first; what they leave of their share the others have."""
    free = [(block, place, columns) for block in blocks for place, columns in enumerate(orders.free(block))]
    free.sort(key=lambda each: _work(each[2]))
    found: Orders = {block.name: orders.identity(block) for block in blocks}
    left = float(sum(_work(columns) for _, _, columns in free))
    in_time = True
    for block, place, columns in each("searching", free, lambda one: _work(one[2])):
        now = time.monotonic()
        share = max((deadline - now) * _work(columns) / left, LEAST_SECONDS)
        best = search(columns, n, m, seed=seed, deadline=min(now + share, deadline))
        found[block.name][place] = best.order
        in_time = in_time and best.in_time
        left -= _work(columns)
    return found, in_time


def _work(columns: Tensor) -> float:
    return float(columns.shape[0]) ** 2 * columns.shape[1]


def _put(model: nn.Module, found: Orders) -> None:
    """Put the blocks of a model, or of a copy of it, in order."""
    anatomy = read(model)
    assert anatomy is not None
    for block in orders.blocks(anatomy):
        if block.name in found:
            orders.put(block, found[block.name])


def _copy(model: nn.Module) -> nn.Module:
    return remade(model, lambda _, tensor: tensor.clone())


def _place(block: str, layer: str) -> str:
    """Return the name of a block below its layer; experts have one together."""
    inside = block.removeprefix(f"{layer}.")
    return ".".join("*" if part.isdigit() else part for part in inside.split("."))
