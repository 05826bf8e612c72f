"""What pictures have in common: their style, and text that is drawn as it stands."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sparsify.escaping import one_line

BLUE, ORANGE, GREEN, GREY = "#2a6fbb", "#e07b39", "#4b9b6a", "#8a8f98"
FIELD = "#eef1f4"
"""The ground of what is filled."""

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "sparsify",
    "text.parse_math": False,  # a `$` in a name begins no formula
    "text.usetex": False,
}
LONGEST_TITLE, LONGEST_LABEL, LONGEST_WORD = 120, 60, 24


@contextmanager
def drawing(**style: Any) -> Iterator[None]:
    """Draw and save in our style, without warnings about characters that the font lacks, or too little room."""
    import matplotlib as mpl

    with mpl.rc_context({**STYLE, **style}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        warnings.filterwarnings("ignore", message="constrained_layout not applied", category=UserWarning)
        yield


def title(text: str) -> str:
    """Return what is drawn above a picture."""
    return one_line(text, LONGEST_TITLE)


def label(text: str) -> str:
    """Return what is drawn beside a line or a bar."""
    return one_line(text, LONGEST_LABEL)


def word(text: str) -> str:
    """Return what is drawn where there is little room: a metric, a role, a layer."""
    return one_line(text, LONGEST_WORD)


def render(figure: Any, form: str) -> bytes:
    """Return a figure as `png` or `svg`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()
