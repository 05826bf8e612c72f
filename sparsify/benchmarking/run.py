"""The measurement: every model on every engine, one after the other in each round, for each shape of inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from sparsify.benchmarking.engines import ENGINES, Engine, Forward, Inputs, Prepared
from sparsify.benchmarking.flops import Flops, count_flops
from sparsify.benchmarking.machine import machine, product, rate_of
from sparsify.benchmarking.medians import LEAST, ratio_of, spread_of
from sparsify.benchmarking.memory import peaks
from sparsify.benchmarking.points import choose
from sparsify.benchmarking.profile import Profile
from sparsify.benchmarking.profiling import profile
from sparsify.benchmarking.results import Case, Peak, Result, Timing
from sparsify.benchmarking.subjects import Subject, inputs_of, subjects, usual_length
from sparsify.benchmarking.why import theoretical, why
from sparsify.errors import BenchmarkError
from sparsify.progress import task
from sparsify.report.latency import Call, timed


@dataclass(frozen=True)
class Asked:
    """What is measured, and how long."""

    folders: tuple[Path, ...]
    against: Path | None = None
    engines: tuple[str, ...] = ("torch",)
    batches: tuple[int, ...] = (1,)
    lengths: tuple[int, ...] = ()
    threads: int | None = None
    rounds: int = 30
    seconds: float = 30.0
    memory: bool = True
    profile: bool = False
    """Look into the forwards of engines that show layers, after they were timed."""

    metric: str | None = None
    """What pictures show."""


Pair = tuple[str, str]
"""(model, engine)."""


def benchmark(asked: Asked) -> Result:
    """Measure; `progress` has what is done at the moment. Raises SparsifyError for what cannot be measured."""
    folders = (*((asked.against,) if asked.against is not None else ()), *asked.folders)
    notes: list[str] = []
    with _threads(asked.threads) as threads, TemporaryDirectory(prefix="sparsify-") as work:
        with task(f"loading {len(folders)} model{'s' * (len(folders) > 1)}"):
            found = subjects(folders)
        choose([subject.about for subject in found], asked.metric)  # complains before anything takes its time
        shapes = _shapes(asked, found)
        drawn = [inputs_of(found, batch, length) for batch, length in shapes]
        names = [subject.about.name for subject in found]
        inputs = {name: [each[place] for each in drawn] for place, name in enumerate(names)}
        engines = _working(asked.engines, notes)
        if asked.profile:
            _check_profile(engines, notes)
        prepared = _prepared(found, engines, Path(work))
        marks = _every_mark(prepared, threads, inputs, notes) if asked.memory else {}
        runs = {pair: ENGINES[pair[1]].open(each, threads) for pair, each in prepared.items()}
        against = names[0] if asked.against is not None else None
        cases = []
        for number, (batch, length) in enumerate(shapes):
            what = f"measuring batch {batch}" + (f" × {length} tokens" if length else "")
            these = {name: every[number] for name, every in inputs.items()}
            flops = {name: count_flops(each.model, these[name]) for name, each in zip(names, found, strict=True)}
            calls = [bind(these[name]) for (name, _), bind in runs.items()]
            *times, rates = timed([*calls, product()], asked.rounds, least=LEAST, seconds=asked.seconds, what=what)
            peak = {pair: every[number] for pair, every in marks.items()}
            looked = _profiles(dict(zip(runs, calls, strict=True))) if asked.profile else {}
            cases.append(_case(batch, length, flops, dict(zip(runs, times, strict=True)), rates, against, peak, looked))
        return Result(
            machine=machine(),
            threads=threads,
            against=against,
            models=[subject.about for subject in found],
            engines=[engine.name for engine in engines],
            cases=cases,
            notes=[*notes, *_notes(found, cases)],
        )


@contextmanager
def _threads(asked: int | None) -> Iterator[int]:
    """Let torch compute with so many threads, and give back the number it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(asked or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _shapes(asked: Asked, found: Sequence[Subject]) -> list[tuple[int, int | None]]:
    usual = usual_length(found)
    if usual is None and asked.lengths:
        raise BenchmarkError(f"{found[0].folder} takes images, which have no length: leave --seq-len out")
    return [(batch, length) for length in asked.lengths or (usual,) for batch in asked.batches]


def _working(names: Sequence[str], notes: list[str]) -> list[Engine]:
    """Return the engines that work here; those that do not are noted. Raises BenchmarkError where none does."""
    reasons = {name: ENGINES[name].missing() for name in names}
    said = [f"{name} was left out: {reason}" for name, reason in reasons.items() if reason]
    if len(said) == len(names):
        raise BenchmarkError("; ".join(said))
    notes += said
    return [ENGINES[name] for name, reason in reasons.items() if not reason]


def _check_profile(engines: Sequence[Engine], notes: list[str]) -> None:
    """Note which engines cannot be profiled. Raises BenchmarkError where none can."""
    hidden = [engine.name for engine in engines if not engine.shows_layers]
    can = ", ".join(name for name, engine in ENGINES.items() if engine.shows_layers)
    if len(hidden) == len(engines):
        raise BenchmarkError(f"--profile cannot look into {', '.join(hidden)}: name one of {can} with --engine")
    notes += [f"{name} shows no layers: its forwards were not profiled" for name in hidden]


def _profiles(calls: dict[Pair, Call]) -> dict[Pair, Profile]:
    found = {}
    for (name, engine), call in calls.items():
        if isinstance(call, Forward):
            with task(f"profiling {name}, {engine}"):
                found[name, engine] = profile(call)
    return found


def _prepared(found: Sequence[Subject], engines: Sequence[Engine], work: Path) -> dict[Pair, Prepared]:
    made = {}
    for number, subject in enumerate(found):
        for engine in engines:
            folder = work / f"{number}-{engine.name}"
            with task(f"preparing {subject.about.name} for {engine.name}"):
                made[subject.about.name, engine.name] = engine.prepare(Prepared(subject.folder, subject.model), folder)
    return made


def _every_mark(
    prepared: dict[Pair, Prepared], threads: int, inputs: dict[str, list[Inputs]], notes: list[str]
) -> dict[Pair, list[Peak]]:
    """Return the peak of each pair for each shape; nothing, and a note, where it could not be measured."""
    marks: dict[Pair, list[Peak]] = {}
    for (name, engine), each in prepared.items():
        with task(f"memory of {name}, {engine}"):
            found = peaks(engine, each.path, threads, inputs[name])
        if isinstance(found, str):
            notes.append(f"the memory of {name} with {engine} was not measured: {found}")
        else:
            marks[name, engine] = found
    return marks


def _case(
    batch: int,
    length: int | None,
    flops: dict[str, Flops],
    seconds: dict[Pair, list[float]],
    rates: list[float],
    against: str | None,
    peak: dict[Pair, Peak],
    profiles: dict[Pair, Profile],
) -> Case:
    rate = rate_of(rates)
    first = next(iter(seconds))[1]
    timings = []
    for (name, engine), spent in seconds.items():
        spread = spread_of(spent)
        compared = against is not None and name != against
        speedup = ratio_of(seconds[against, engine], spent) if compared and against else None
        reference = flops[against] if against else None
        timings.append(
            Timing(
                model=name,
                engine=engine,
                seconds=spread,
                share=flops[name].dense / spread.median / rate.median,
                speedup=speedup,
                engine_speedup=ratio_of(seconds[name, first], spent) if engine != first else None,
                theoretical=theoretical(flops[name], reference or flops[name]),
                why=why(ENGINES[engine], flops[name], reference, speedup),
                peak=peak.get((name, engine)),
                profile=profiles.get((name, engine)),
            )
        )
    return Case(batch=batch, length=length, rounds=len(rates), rate=rate, flops=flops, timings=timings)


def _notes(found: Sequence[Subject], cases: Sequence[Case]) -> list[str]:
    """Return what has to be known to read the numbers right."""
    notes = []
    kinds = {subject.about.kind for subject in found}
    if len(kinds) > 1:
        notes.append(f"these are models of several kinds ({', '.join(sorted(kinds))}): their heads cost differently")
    uncounted = {name for case in cases for flops in case.flops.values() for name in flops.uncounted}
    if uncounted:
        notes.append(f"operations without a rule are missing in the counts: {', '.join(sorted(uncounted))}")
    rough = [case.title for case in cases if case.rate.best > 1.3 * case.rate.median]
    if rough:
        notes.append(
            f"the machine was busy ({'; '.join(rough)}): its best rate is over 1.3 times its usual one. "
            "Trust ratios only"
        )
    return notes
