"""Every error that sparsify raises on purpose, and the problems that they carry."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice, takewhile

from sparsify import escaping

LONGEST_MESSAGE, LONGEST_PATH, LONGEST_WORD = 1000, 200, 200
MOST_PROBLEMS = 100
"""Problems in the text of an error; `.problems` has all."""
MOST_CHOICES, MOST_COMPARED = 5000, 100


@dataclass(frozen=True)
class Mark:
    """A place in a file: 1-based line and column."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{escaping.one_line(self.file)}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where it is, and what to do about it; message and path are fit to be shown."""

    message: str
    path: str = ""
    mark: Mark | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", escaping.visible(escaping.cut(self.message, LONGEST_MESSAGE)))
        object.__setattr__(self, "path", escaping.one_line(self.path, LONGEST_PATH))

    def __str__(self) -> str:
        return ": ".join(str(part) for part in (self.mark, self.path, self.message) if part)


class SparsifyError(Exception):
    """Base of all errors raised on purpose; its text is fit to be shown to a user, whatever it quotes.

    Examples:
        >>> from sparsify import Recipe, SparsifyError
        >>> try:
        ...     Recipe.load("gpm")
        ... except SparsifyError as error:
        ...     print(type(error).__name__)
        RecipeError
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(escaping.message(str(text)))


class _ProblemsError(SparsifyError):
    def __init__(self, problems: Problem | Iterable[Problem] | str) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        lines = [str(problem) for problem in self.problems[:MOST_PROBLEMS]]
        if len(self.problems) > MOST_PROBLEMS:
            lines.append(f"… and {len(self.problems) - MOST_PROBLEMS:,} more problems")
        super().__init__("\n".join(lines))


class RecipeError(_ProblemsError):
    """A recipe that cannot be read or is not valid; `.problems` lists everything found.

    Examples:
        >>> from sparsify import Recipe, RecipeError
        >>> try:
        ...     Recipe.parse("{version: 1, modifiers: [{type: prun, sparsity: 0.5}]}", "mine.yaml")
        ... except RecipeError as error:
        ...     for problem in error.problems:
        ...         print(problem.mark.line, problem.path, problem.message)
        1 modifiers[0].type unknown modifier 'prun' (did you mean 'prune'?)
    """


class PlanError(_ProblemsError):
    """A valid recipe that does not fit this model or this length of training."""


class HookError(SparsifyError):
    """The training loop called the hooks in an order, or at a place, that cannot work."""


class StateError(SparsifyError):
    """A saved state that does not belong to this recipe, model or weights."""


class SparsityError(SparsifyError):
    """The model does not have the sparsity that the recipe asked for."""


class DataError(SparsifyError):
    """Data that cannot be read or used; the text says in which file and line."""


class TrainingError(SparsifyError):
    """A training that cannot begin, or cannot go on."""


class ExportError(SparsifyError):
    """A model that cannot be exported, or whose export is not the same model."""


class CompactionError(SparsifyError):
    """A model that cannot be made smaller as it is, or a smaller one that would not be the same."""


class BenchmarkError(SparsifyError):
    """A measurement that cannot be made, or results that cannot be drawn together."""


class KernelError(SparsifyError):
    """Kernels that cannot be used on a model as it is, or where it is."""


class ScoreError(SparsifyError):
    """Scores that cannot be ranked (NaN or infinite)."""


def first_line(error: BaseException) -> str:
    """Return what a library's error says, in a line; two where the first only announces."""
    if isinstance(error, KeyError) and error.args:
        return f"there is no {error.args[0]!r}"[:300]
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0])[:300]


def named_line(error: BaseException) -> str:
    """Return the same with the error's class before it."""
    return f"{type(error).__name__}: {first_line(error)}" if str(error).strip() else type(error).__name__


def did_you_mean(word: str, choices: Iterable[str], *, most: int = 8) -> str:
    """Return ` (did you mean …?)`, or the choices where they are few, or nothing.

    The word itself is never suggested. Where it differs from a choice only by what is hard to see (capitals, spaces,
    letters that look alike), it says so.
    """
    known = sorted(set(islice(choices, MOST_CHOICES)) - {word})
    near = [choice for choice in known if len(choice) <= LONGEST_WORD] if len(word) <= LONGEST_WORD else []
    if len(near) > MOST_COMPARED:  # comparing is slow: those that begin alike
        near = sorted(near, key=lambda choice: -_alike(word, choice))[:MOST_COMPARED]
    folded = {_folded(choice): choice for choice in near}
    own = _folded(word[:LONGEST_WORD])
    close = [folded[own]] if own in folded else difflib.get_close_matches(word, near, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {close[0]!r}?{_unseen(word)})"
    if 0 < len(known) <= most:
        return f" (one of: {', '.join(known)})"
    return ""


def _folded(word: str) -> str:
    """Return a word without what is hard to see: capitals, spaces, wide letters, one dash for another."""
    plain = unicodedata.normalize("NFKC", word).casefold()
    return "".join("-" if unicodedata.category(c) == "Pd" or c == "_" else c for c in plain if c.isprintable()).strip()


def _unseen(word: str) -> str:
    """Return what of a word is easily overlooked."""
    if word != word.strip():
        return " What is written has a space around it"
    odd = next((letter for letter in word if not letter.isascii() or not letter.isprintable()), None)
    if odd is None:
        return ""
    return f" What is written has the letter U+{ord(odd):04X}, {unicodedata.name(odd, 'which is not printed').lower()}"


def _alike(word: str, other: str) -> int:
    """Return how many characters two words have in common at their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(word, other, strict=False)))
