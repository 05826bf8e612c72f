"""How text gets to a terminal: without markup, without control characters."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from sparsify.escaping import one_line, visible

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)

LONGEST = 300
"""Characters of a name or a cell that are shown."""


class Terminal(Console):
    """A console that takes strings as they are: brackets are brackets, and control characters are written out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text, made safe before it is measured."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield segments; the text of all of them is safe, whoever made it."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def be_quiet(quiet: bool) -> None:
    """Leave out, or show, what is neither a result nor an error: progress, notes, what to do next."""
    _quiet.set(quiet)


def is_quiet() -> bool:
    """Whether only results and errors are wanted."""
    return _quiet.get()


def out() -> Terminal:
    """Return a console for results; wide where nobody looks, so that nothing is folded in a file."""
    return Terminal(width=None if sys.stdout.isatty() else 140)


def aside() -> Terminal:
    """Return a console for what is no result: notes, what to do next; it is silent under --quiet."""
    return Terminal(width=None if sys.stdout.isatty() else 140, quiet=is_quiet())


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text as it is, made safe; to stderr with `err`."""
    typer.echo(visible(text), err=err, nl=nl)


def note(text: str) -> None:
    """Print what is no result, as it is, made safe; nothing under --quiet."""
    if not is_quiet():
        say(text)


def cell(text: object) -> str:
    """Return what a table shows of a name or a value."""
    return one_line(str(text), LONGEST)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return one line of text made of strings and (string, style)."""
    return Text.assemble(*(one_line(part) if isinstance(part, str) else (one_line(part[0]), part[1]) for part in parts))
