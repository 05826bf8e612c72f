"""Tables of pages: numbers stay in one line, words wrap, and short tables fold where the page is narrow."""

from __future__ import annotations

import re

from sparsify.report import figures
from sparsify.report.page import page


def made(header: tuple[str, ...], *rows: tuple[str, ...]) -> str:
    """Return the only table of a page."""
    text = page("title", "lead", [(header, rows)], "<svg></svg>", [])
    (found,) = re.findall(r"<div class=\"wide\"><table.*?</table></div>", text, re.DOTALL)
    return str(found)


def test_numbers_and_words_are_told_apart() -> None:
    words = "linear weights inside the layers, without embeddings"
    table = made(("counted in", "weights", "what that is"), ("encoder <linear>", "3,538,944", words))
    assert '<table class="folds">' in table, "its words stand in a line of their own where there is little room"
    assert "<td>encoder &lt;linear&gt;</td><td class='number'>3,538,944</td>" in table
    assert f"<td class='words'>{words}</td>" in table
    assert "<th class='words'>what that is</th>" in table


def test_tables_of_numbers_do_not_fold() -> None:
    table = made(("tensor", "weights", "zeros"), ("a.weight", "12", "50.00%"))
    assert "folds" not in table
    assert "words" not in table
    wide = made(tuple("abcdefgh"), (*("1" * 7), "accuracy 0.9180, f1 0.9170, loss 0.3000"))
    assert "folds" not in wide, "it is scrolled"


def test_a_table_without_a_header() -> None:
    assert "<th" not in made(("", ""), ("training", "2000 steps, 812 s"))


def test_pictures_take_the_colours_of_the_page() -> None:
    svg = figures.for_page(f'<?xml version="1.0"?>\n<svg><text style="fill: {figures.INK}">x</text></svg>')
    assert svg == '<svg><text style="fill: var(--ink)">x</text></svg>'
