"""Where the time of a forward goes, as text in rows: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sparsify.benchmarking.profile import Profile, Sum
from sparsify.benchmarking.results import Case, Timing
from sparsify.benchmarking.tables import Row, milliseconds

MOST = 16
"""Rows of the longest table; what comes after them is one."""

Table = tuple[Row, list[Row]]


def profiles(case: Case) -> Iterator[tuple[str, list[Table]]]:
    """Yield (sentence, tables) for each model on each engine that was profiled."""
    for timing in case.timings:
        if timing.profile is not None:
            yield _sentence(timing, timing.profile), _tables(timing.profile)


def _sentence(timing: Timing, profile: Profile) -> str:
    watched, alone = milliseconds(profile.seconds), milliseconds(timing.seconds.median)
    peak = f"; the peak is {profile.peak / 1e9:.0f} GFLOP/s" if profile.peak is not None else ""
    who = f"{timing.model}, {timing.engine}"
    return f"{who}: a forward of {watched}, the median of {profile.forwards} watched ones ({alone} alone){peak}"


def _tables(profile: Profile) -> list[Table]:
    kinds, layers, roles = profile.kinds(), profile.layers(), profile.roles()
    named = [("kind", kinds), ("module (* for every layer): kind", roles)]
    if len(layers) > 1:
        named.insert(1, ("layer", layers))
    return [_table(name, sums, profile) for name, sums in named]


def _table(name: str, sums: Sequence[Sum], profile: Profile) -> Table:
    with_peak = any(each.of_peak is not None for each in sums)
    header: Row = (name, "calls", "time", "share", *(("engine of peak",) if with_peak else ()))
    rows = [_row(each, with_peak) for each in sums[:MOST]]
    if rest := sums[MOST:]:
        seconds = sum(each.seconds for each in rest)
        whole = Sum(
            name=f"{len(rest)} more",
            calls=sum(each.calls for each in rest),
            seconds=seconds,
            share=seconds / profile.seconds,
            of_peak=None,
        )
        rows.append(_row(whole, with_peak))
    return header, rows


def _row(each: Sum, with_peak: bool) -> Row:
    of_peak = (f"{each.of_peak:.0%}" if each.of_peak is not None else "",) if with_peak else ()
    return (each.name, f"{each.calls:,}", milliseconds(each.seconds), f"{each.share:.1%}", *of_peak)
