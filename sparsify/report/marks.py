"""Marks of inline SVG: boxes, words and small pictures, with what a pointer is told. Colours are the page's classes."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence

from sparsify.escaping import html, one_line

LONGEST_HINT, LONGEST_LAYER = 160, 24
LETTER = 6.6
"""Pixels that a letter takes."""

GROWTH = 1.6
"""How many times its size a drawing may have where there is room; it is never smaller, but scrolled."""


def words(x: float, y: float, text: str, kind: str = "ink", anchor: str = "start", longest: int = 40) -> str:
    """Return a line of text at most so many characters long; `anchor` is start, middle or end."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{html(one_line(text, longest))}</text>'


def box(x: float, y: float, width: float, height: float, kind: str, hint: str = "", radius: float = 0) -> str:
    """Return a rectangle of a class."""
    corner = f' rx="{radius:g}"' if radius else ""
    start = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"{corner} class="{kind}"'
    return f"{start}>{_hint(hint)}</rect>" if hint else f"{start}/>"


def picture(x: float, y: float, side: float, png: bytes) -> str:
    """Return a square picture whose pixels stay sharp."""
    data = base64.b64encode(png).decode()
    return (
        f'<image x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{data}"/>'
    )


def drawing(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    """Return an inline drawing of so many pixels; `label` is read to who cannot see it."""
    name = html(one_line(label))
    size = f'viewBox="0 0 {width:g} {height:g}" style="min-width:{width:g}px;max-width:{width * GROWTH:g}px"'
    body = "\n".join(parts)
    return f'<div class="wide"><svg class="look" {size} role="img" aria-label="{name}">\n{body}\n</svg></div>'


def margin(layers: Iterable[str]) -> float:
    """Return how many pixels the names of layers take, with the word `layer` above them."""
    return 12 + LETTER * max(5, *(min(len(layer), LONGEST_LAYER) for layer in layers))


def layer_names(left: float, heights: Mapping[str, float], above: float) -> list[str]:
    """Return the names of layers at their heights, left of `left`, with the word `layer` above them."""
    names = [words(left - 8, y, layer, "ink", "end", LONGEST_LAYER) for layer, y in heights.items()]
    return [words(left - 8, above, "layer", "faint", "end"), *names]


def _hint(text: str) -> str:
    return f"<title>{html(one_line(text, LONGEST_HINT))}</title>"
