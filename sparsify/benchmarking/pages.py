"""The page of a run: models, times, sentences, picture. Nothing is loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence

from sparsify.benchmarking import tables
from sparsify.benchmarking.results import Result
from sparsify.report.page import page
from sparsify.report.picture import Picture

LEAD = (
    "All models ran one after the other in each round, on the same inputs. × is how many times as fast, the median "
    "over the rounds with its interval of 95 %; by FLOPs, what it would be if time went by operations and "
    "zeros cost none; of rate, the share of the rate at which this machine multiplies large dense matrices."
)


def page_of(result: Result, title: str, picture: Picture) -> str:
    """Return the page as HTML text."""
    every: list[tuple[Sequence[str], Sequence[Sequence[str]]]] = [(tables.MODELS, tables.models(result))]
    sections = []
    for case in result.cases:
        every.append((tables.header(result), tables.timings(result, case)))
        said = [f"{who}: {sentence}" for who, sentence in tables.sentences(result, case)]
        sections.append((tables.heading(case), "\n".join([tables.operations(case), *said])))
    sections += [("Machine", result.machine), ("Notes", "\n".join(result.notes))]
    titles = ["", *(case.title for case in result.cases)]
    named = [((title or head[0], *head[1:]), rows) for title, (head, rows) in zip(titles, every, strict=True)]
    return page(title, LEAD, named, picture.svg, sections)
