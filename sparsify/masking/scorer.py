"""Asks a criterion about pieces of a tensor, and holds it to its contract."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sparsify.bits import bits
from sparsify.criteria import Criterion
from sparsify.criteria.base import Place, Statistics
from sparsify.errors import ScoreError, SparsifyError
from sparsify.layers import Weight
from sparsify.masking import pieces

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What scores may be."""


class Scorer:
    """A criterion and one tensor: its weights, or `values` of its shape in their place.

    Every method raises ScoreError, naming the tensor, for an answer that is no score for each weight.
    """

    def __init__(self, weight: Weight, criterion: Criterion, values: Tensor | None = None) -> None:
        self.name = weight.name
        self.criterion = criterion
        self.cube = weight.cube(weight.tensor if values is None else values)
        rows, taps, columns = self.cube.shape
        self.shape = (rows, taps, columns)
        self.width = taps * columns
        self._answered: torch.dtype | None = None

    @cached_property
    def statistics(self) -> Statistics | None:
        """What the criterion keeps of the whole tensor; None unless it needs that."""
        return self._statistics(self.cube.flatten(1)) if "statistics" in self.criterion.needs else None

    def _statistics(self, whole: Tensor) -> Statistics:
        place = Place(self.name, 0, shape=self.shape)
        found = self._ask("statistics", whole, lambda: self.criterion.statistics(whole, place))
        several = isinstance(found, Mapping) and all(isinstance(value, Tensor) for value in found.values())
        if not (several or isinstance(found, Tensor)):
            raise self._wrong(f"`statistics` must return a tensor, or several by name, and returned {_kind(found)}")
        return found  # type: ignore[no-any-return]

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of the scores: that of the first weight's (of the first row's)."""
        if not self.cube.numel():
            return self.cube.dtype
        return self.score(self.piece(0, self.width if self.criterion.whole_rows else 1), 0).dtype

    def piece(self, start: int, stop: int) -> Tensor:
        """Return weights start … < stop in the cube's order: 1-D, or whole rows [rows, inputs] where asked for.

        It copies only their rows where it must.
        """
        if self.cube.is_contiguous():
            flat = self.cube.view(-1)[start:stop]
        else:
            first = start // self.width if self.width else 0
            rows = self.cube[first : -(-stop // max(self.width, 1))].reshape(-1)
            flat = rows[start - first * self.width : stop - first * self.width]
        return flat.view(-1, self.width) if self.criterion.whole_rows and self.width else flat

    def rows(self, first: int, stop: int) -> Tensor:
        """Return the scores of some rows of the cube, [rows, taps, columns]."""
        rows = self.cube[first:stop]
        return self.score(rows.flatten(1), first * self.width).view(rows.shape)

    def score(self, piece: Tensor, start: int, stride: int = 1) -> Tensor:
        """Return the scores of a piece, in its shape; see `Place` for `start` and `stride`."""
        place = Place(self.name, start, stride, self.shape, self.statistics)
        scores = self._ask("score", piece, lambda: self.criterion.score(piece, place))
        if not isinstance(scores, Tensor):
            raise self._wrong(f"`score` must return a tensor, and returned {_kind(scores)}")
        if scores.shape != piece.shape:
            found, right = list(scores.shape), list(piece.shape)
            raise self._wrong(f"`score` must return one score for each weight, of shape {right}, and returned {found}")
        if scores.dtype not in DTYPES or scores.layout != torch.strided:
            kind = scores.dtype if scores.layout == torch.strided else scores.layout
            raise self._wrong(f"scores must be floating-point numbers, such as float32, and are {_bare(kind)}")
        if scores.device != piece.device:
            raise self._wrong(
                f"scores must be on the device of the weights, {piece.device}, and are on {scores.device}"
            )
        if scores.dtype != (self._answered or scores.dtype):
            kinds = f"{_bare(self._answered)} and {_bare(scores.dtype)}"
            raise self._wrong(f"all scores of a tensor must be of one dtype, and are of {kinds}")
        self._answered = scores.dtype
        return scores

    def examine(self) -> None:
        """Ask about a few weights in several ways: nothing may be written, and all answers must agree.

        It works on a copy, so that a criterion that writes into its input does no harm.
        """
        unit = max(self.width, 1) if self.criterion.whole_rows else 1
        count = min(self.cube.numel(), max(pieces.PROBE // unit, 2) * unit)
        if not count:
            return
        if "statistics" in self.criterion.needs:
            whole = self.cube.flatten(1)
            copy = whole.clone()
            self.statistics = self._statistics(copy)
            self._check_unchanged("statistics", copy, whole)
        given = self.piece(0, count)
        piece = given.clone(memory_format=torch.contiguous_format)
        scores = self.score(piece, 0)
        check_scores(self.name, scores)
        scores = scores.clone()
        self._check_unchanged("score", piece, given)
        if not torch.equal(scores, self.score(piece, 0)):
            raise self._wrong(
                "`score` must return the same scores when it is called again with the same input, and does not"
            )
        cut = len(piece) // 3
        parts = [self.score(piece[:cut], 0), self.score(piece[cut:], cut * unit)] if cut else [scores]
        if not _near(torch.cat(parts), scores):
            raise self._wrong(
                "the scores depend on how the tensor is cut into pieces; a score that looks at its row needs "
                "`whole_rows`, and one that looks at the whole tensor needs 'statistics'"
            )

    def _ask(self, what: str, given: Tensor, ask: Callable[[], Any]) -> Any:
        """Return an answer about `given`, which must not be written to."""
        before = _version(given)
        try:
            found = ask()
        except Exception as error:
            if isinstance(error, (SparsifyError, MemoryError)) or "memory" in str(error):
                raise
            raise self._wrong(f"`{what}` raised {type(error).__name__}: {error}") from error
        if _version(given) != before:
            raise self._writes(what)
        return found

    def _check_unchanged(self, what: str, copy: Tensor, original: Tensor) -> None:
        """Raise ScoreError if something was written that torch does not count: through `.data`, or numpy."""
        if not torch.equal(bits(copy), bits(original.contiguous())):
            raise self._writes(what)

    def _writes(self, what: str) -> ScoreError:
        return self._wrong(f"`{what}` writes into the weights that it is given; it must work on a copy")

    def _wrong(self, sentence: str) -> ScoreError:
        return ScoreError(f"{self.name}: {sentence}")


@contextmanager
def naming(criterion: Criterion) -> Iterator[None]:
    """Let a ScoreError name the criterion."""
    try:
        yield
    except ScoreError as error:
        raise ScoreError(f"criterion {criterion.type!r}: {error}") from error.__cause__


def check_scores(name: str, scores: Tensor, protected: bool = False) -> None:
    """Raise ScoreError, naming the tensor, for NaN, or for infinite scores unless they are `protected`."""
    if not scores.numel() or math.isfinite(scores.sum()):  # a finite sum has finite terms, and is found much sooner
        return
    least, most = (float(end) for end in torch.aminmax(scores))
    if math.isnan(least) or (not protected and (math.isinf(least) or math.isinf(most))):
        what = "NaN" if math.isnan(least) else "infinite"
        raise ScoreError(f"{name}: the scores hold {what} values, so they cannot be ranked")


def _near(one: Tensor, other: Tensor) -> bool:
    """Whether scores agree but for rounding: the same sum in another order."""
    tolerance = max(1e-3, 8 * torch.finfo(other.dtype).eps)
    most = float(other.abs().max())
    return torch.allclose(one.to(other.dtype), other, rtol=tolerance, atol=1e-2 * tolerance * most)


def _version(tensor: Tensor) -> int:
    """Return the number of writes that torch has seen; tensors of the inference mode count none."""
    return 0 if tensor.is_inference() else tensor._version


def _bare(kind: object) -> str:
    return str(kind).removeprefix("torch.")


def _kind(value: object) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r:.40}"
