"""Tokens of texts of any length: a long one is read in pieces, and has the tokens that it has as a whole."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from sparsify.progress import task

PIECE = 100_000
"""Characters that a tokenizer is given at once: beside the tokens it makes offsets, masks and more of all of them."""

SINGLE_SPACE = re.compile(r"(?<=\S) (?=\S)")
"""Where a text is cut. Words are cut into tokens one by one, so that no token reaches over it."""


def pieces(text: str, most: int = PIECE, *, keep: bool = True) -> Iterator[str]:
    """Yield a text in pieces of at most `most` characters, cut before the last space between two words that fits.

    A stretch without such a space is cut after `most` characters. `keep` says whether the space begins the next piece;
    else it is left out.
    """
    start = 0
    while len(text) - start > most:
        window = text[start : start + most + 1]
        place = next((at for at in _spaces_from_the_end(window)), 0)
        yield window[: place or most]
        start += (place + (not keep)) if place else most
    yield text[start:]


def _spaces_from_the_end(window: str) -> Iterator[int]:
    at = window.rfind(" ", 1, len(window) - 1)
    while at > 0:
        if SINGLE_SPACE.match(window, at):
            yield at
        at = window.rfind(" ", 1, at)


def keeps_space(tokenizer: Any) -> bool:
    """Whether a space belongs to the token behind it wherever that stands (byte-level BPE), and must not be left out.

    Others drop spaces (WordPiece), or add one before a text (SentencePiece).
    """

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    return ids("one two") != ids("one") + ids("two")


def token_ids(tokenizer: Any, texts: Sequence[str], most: int = PIECE) -> Iterator[array[int]]:
    """Yield the tokens of each text, without special ones, as int32: 4 bytes a token."""
    keep = keeps_space(tokenizer)
    with task("cutting documents into tokens", sum(map(len, texts))) as advance:
        for text in texts:
            ids = array("i")
            for piece in pieces(text, most, keep=keep):
                ids.extend(tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"])
                advance(len(piece))
            yield ids
