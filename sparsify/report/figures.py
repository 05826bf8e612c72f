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

INK, FAINT = "#1c2128", "#57606a"
"""Text and lines; a page puts its own colours in their place, which differ on a dark ground."""

WIDE, NARROW = 10, 7.2
"""Inches of a picture by itself, and of one in a page."""

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "sparsify",
    "text.parse_math": False,  # a `$` in a name begins no formula
    "text.usetex": False,
}
LONGEST_TITLE, LONGEST_LABEL, LONGEST_WORD = 120, 60, 24


@contextmanager
def drawing() -> Iterator[None]:
    """Draw and save in our style, without warnings about characters that the font lacks, or too little room."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE), warnings.catch_warnings():
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


def for_page(svg: str) -> str:
    """Return an SVG of ours without its header and ground, with the page's variables for the colours of text."""
    body = svg[svg.index("<svg") :]
    for colour, variable in ((INK, "--ink"), (FAINT, "--faint"), (FIELD, "--field")):
        body = body.replace(colour, f"var({variable})")
    return body


def render(figure: Any, form: str) -> bytes:
    """Return a figure as `png`, or as `svg` without a ground."""
    buffer = io.BytesIO()
    svg = form == "svg"
    figure.savefig(buffer, format=form, metadata={"Date": None} if svg else None, transparent=svg)
    return buffer.getvalue()
