"""Heads and neurons tried out: what is said to die may hold anything, and the output does not move.

A head's rows of query, key and value are filled with other random numbers while its columns of output are zero: nothing
may change. While its columns are alive it must change. What holds for the last one must hold for every other one, all
at once. Half of a head must not be a head: a size that is too large is found out. With its value rows zero, its columns
of output may hold anything. No knowledge of the architecture goes in, so a wrong one (thirds for interleaved heads, a
norm over all heads) is refused.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsify.anatomy import building
from sparsify.anatomy.architecture import AttentionPaths, FeedForwardPaths
from sparsify.anatomy.parts import Attention, FeedForward
from sparsify.anatomy.samples import Call
from sparsify.anatomy.twin import Twin, UnverifiedError
from sparsify.errors import named_line
from sparsify.layers import Weight

SECONDS = 5.0
MOVES = 1e-3
STAYS = 1e-4
"""Relative changes of an output, by the largest value: what counts as moving, and as standing still."""

Edit = tuple[Weight, slice, bool]
"""A matrix or bias, some of its rows (or, if True, columns)."""


class RefutedError(Exception):
    """What was guessed is not so; says in what."""


class Trial:
    """Tries blocks of one model. `seconds` bound each: of this thread, so that a busy machine decides nothing."""

    def __init__(self, twin: Twin, seconds: float = SECONDS) -> None:
        self.twin, self.seconds = twin, seconds

    def try_out(self, layer: str, paths: AttentionPaths | FeedForwardPaths) -> None:
        """Return where the paths are right for a layer.

        Raises RefutedError where they are not, and UnverifiedError where nobody can tell.
        """
        module = self.twin.model.get_submodule(layer)
        block: Attention | FeedForward | None
        if isinstance(paths, AttentionPaths):
            block = building.attention(paths, "", "", module)
            names = (paths.fused or paths.query, paths.output)
        else:
            block = next(building.feed_forwards(paths, "", module), None)
            names = (paths.up or paths.fused, paths.down)
        if block is None:
            raise RefutedError("its matrices have other sizes")
        name = building.join(layer, building.block_of(module, *names))
        end = time.thread_time() + self.seconds
        with torch.random.fork_rng(devices=[]), torch.no_grad(), self.twin.own_weights(name):
            problem: UnverifiedError | None = None
            for run in self._runners(name, layer, end):
                try:
                    _check(block, run)
                except UnverifiedError as error:
                    problem = problem or error
                else:
                    return
            if problem is not None:
                raise problem

    def _runners(self, name: str, layer: str, end: float) -> Iterator[Callable[[], Tensor]]:
        """Yield what runs a block on arguments that it takes; its outputs as one vector.

        Raises UnverifiedError where there are none.
        """
        block = self.twin.model.get_submodule(name)
        problem, count = "nothing can be given to it", 0
        for call in self.twin.calls(name, layer):

            def run(call: Call = call) -> Tensor:
                if time.thread_time() > end:
                    raise UnverifiedError(f"trying it takes more than {self.seconds:g} s")
                torch.manual_seed(0)
                return flat(block(*call[0], **call[1]))

            try:
                first = run()
            except UnverifiedError:
                raise
            except Exception as error:  # whatever a model that we do not know says
                problem = named_line(error)
                continue
            if first.numel() and bool(first.isfinite().all()) and torch.equal(first, run()):
                count += 1
                yield run
            else:
                problem = "its output is not the same twice"
        if not count:
            raise UnverifiedError(f"it could not be run alone ({problem})")


def _check(block: Attention | FeedForward, run: Callable[[], Tensor]) -> None:
    """Raise RefutedError or UnverifiedError unless the last head or neuron of a block is one."""
    if isinstance(block, Attention):
        _heads(block, run)
    else:
        _neurons(block, run)


def _heads(block: Attention, run: Callable[[], Tensor]) -> None:
    size = block.output.geometry.columns // block.heads
    group = block.groups - 1  # the last: what is wrong with the sizes of those before it shows here too
    per = block.heads // block.groups
    columns: list[Edit] = [(block.output, slice(group * per * size, (group + 1) * per * size), True)]
    rows: list[Edit] = []
    for weight in block.projections:
        step = weight.geometry.rows // block.groups
        mine = _with_bias(weight, slice(group * step, (group + 1) * step))
        if _moved(run, mine, []) < MOVES:
            raise UnverifiedError(f"no effect of {weight.parameter_name} on the output is seen with random inputs")
        rows += mine
    _dies(run, rows, columns, "a head")
    _together(block, run, range(0, block.groups, 2))
    if (per * size) % 2 == 0:
        half = slice(group * per * size, group * per * size + per * size // 2)
        _lives(run, [(weight, _half(part), across) for weight, part, across in rows], [(block.output, half, True)])
    if not block.interleaved:
        value = _with_bias(block.value, slice(group * size, (group + 1) * size))
        _dies(run, columns, value, "a head's output")
        if per > 1:
            one = slice(group * per * size, (group * per + 1) * size)
            _dies(run, _with_bias(block.query, one), [(block.output, one, True)], "a query head")


def _together(block: Attention, run: Callable[[], Tensor], groups: Sequence[int]) -> None:
    """Raise RefutedError where several heads do not die together: one may lie where it should, and others not."""
    wide = block.output.geometry.columns // block.groups
    columns: list[Edit] = [(block.output, slice(group * wide, (group + 1) * wide), True) for group in groups]
    rows: list[Edit] = []
    for weight in block.projections:
        step = weight.geometry.rows // block.groups
        rows += [edit for group in groups for edit in _with_bias(weight, slice(group * step, (group + 1) * step))]
    _dies(run, rows, columns, "heads")


def _neurons(block: FeedForward, run: Callable[[], Tensor]) -> None:
    count = block.down.geometry.columns
    for unit, what in (
        (slice(count - 1, count), "a neuron"),
        (slice(0, count, 2), "neurons"),  # the last may lie where it should, and others not
        (slice(0, count // 2 or 1), "neurons"),
    ):
        rows = _with_bias(block.up, unit)
        if block.gate is not None:
            rows += _with_bias(block.gate, unit)
        _dies(run, rows, [(block.down, unit, True)], what)


def _with_bias(weight: Weight, rows: slice) -> list[Edit]:
    bias = weight.bias()
    return [(weight, rows, False), *([(bias, rows, False)] if bias is not None else [])]


def _dies(run: Callable[[], Tensor], free: Sequence[Edit], zero: Sequence[Edit], what: str) -> None:
    """Raise RefutedError unless `free` has no effect while `zero` is zero, and has some while it is not."""
    alive = _moved(run, free, [])
    if alive < MOVES:
        raise UnverifiedError(f"no effect of {what} on the output is seen with random inputs")
    if (moved := _moved(run, free, zero)) > STAYS:
        raise RefutedError(f"the output moves by {moved:.1%} though {what} should have no effect")


def _half(part: slice) -> slice:
    return slice(part.start, part.start + (part.stop - part.start) // 2)


def _lives(run: Callable[[], Tensor], free: Sequence[Edit], zero: Sequence[Edit]) -> None:
    """Raise RefutedError where half of a head dies by itself, so that a head is smaller than was thought."""
    if all(_moved(run, free, zero, seed) <= STAYS for seed in range(1, 5)):
        raise RefutedError("half of what should be a head is one already")


def _moved(run: Callable[[], Tensor], free: Sequence[Edit], zero: Sequence[Edit], seed: int = 1) -> float:
    """Return by how much the output changes with other numbers in `free` while `zero` is zero; relative, by maxima."""
    made = torch.Generator().manual_seed(seed)  # the block may draw from the global one
    views, zeros = ([_view(*edit) for edit in edits] for edits in (free, zero))
    saved = [(view, view.clone()) for view in (*views, *zeros)]
    try:
        for view in zeros:
            view.zero_()
        outputs = []
        for _ in range(2):
            for view in views:
                view.copy_(torch.randn(view.shape, generator=made) * 2 / math.sqrt(view.shape[-1]))
            outputs.append(run())
    finally:
        for view, values in saved:
            view.copy_(values)
    scale = float(outputs[0].abs().max()) or 1.0
    return float((outputs[0] - outputs[1]).abs().max()) / scale


def _view(weight: Weight, part: slice, across: bool) -> Tensor:
    cube = weight.cube(weight.tensor)
    return cube[:, :, part] if across else cube[part]


def flat(value: Any) -> Tensor:
    """Return the first tensor of real numbers in an output, as one vector; those after it may be attention maps."""
    if isinstance(value, Tensor):
        return value.flatten().float() if value.is_floating_point() else torch.empty(0)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return next((found for part in parts if (found := flat(part)).numel()), torch.empty(0))
