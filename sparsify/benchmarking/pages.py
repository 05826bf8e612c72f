"""The page of a run: models, times, sentences, picture. Nothing is loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence

from sparsify.benchmarking import profile_tables, tables
from sparsify.benchmarking.results import Result
from sparsify.report.page import page
from sparsify.report.picture import Picture

LEAD = (
    "In each round every model ran once, on the same inputs. × is how many times as fast a model is: the median "
    "over the rounds, with its 95 % interval. “By FLOPs” is what that would be if only operations took time and "
    "zeros cost nothing. “Of rate” is its speed as a share of the speed at which this machine multiplies large dense "
    "matrices."
)


Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def page_of(result: Result, title: str, picture: Picture) -> str:
    """Return the page as HTML text."""
    times: list[Table] = [(tables.MODELS, tables.models(result))]
    said: list[Table] = []
    for case in result.cases:
        first, *rest = tables.header(result)
        times.append(((f"{case.title}: {first}", *rest), tables.timings(result, case)))
        sentences = [("", tables.operations(case)), *tables.sentences(result, case)]
        said.append(((case.title, tables.rate(case)), sentences))
        for sentence, looked in profile_tables.profiles(case):
            said.append(((f"{case.title}, where the time goes", ""), [("", sentence)]))
            said += looked
    sections = [("Machine", result.machine), ("Notes", "\n".join(result.notes))]
    return page(title, LEAD, times, picture.svg, sections, said)
