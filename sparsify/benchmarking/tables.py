"""The numbers as text, in rows: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator

from sparsify.benchmarking.medians import Ratio, Spread
from sparsify.benchmarking.results import Case, Model, Peak, Result

Row = tuple[str, ...]
MODELS: Row = ("model", "class", "linear weights", "zeros", "disk", "zstd", "in memory", "metrics")


def models(result: Result) -> list[Row]:
    """Return a row for each model, under `MODELS`."""
    return [_model(model) for model in result.models]


def header(result: Result) -> Row:
    """Return what stands above the rows of a case."""
    against = (f"× {result.against}",) if result.against else ()
    engines = (f"× {result.engines[0]}",) if len(result.engines) > 1 else ()
    return ("model", "engine", "median", "quartiles", *against, *engines, "by FLOPs", "of rate", "peak memory (own)")


def timings(result: Result, case: Case) -> list[Row]:
    """Return a row for each model on each engine, under `header`."""
    rows = []
    for timing in case.timings:
        against = (_interval(timing.speedup),) if result.against else ()
        engines = (_interval(timing.engine_speedup),) if len(result.engines) > 1 else ()
        promised = f"{timing.theoretical:.2f}×" if timing.theoretical is not None else "?"
        if timing.model == result.against:
            promised = ""
        share, peak = f"{timing.share:.0%}", _peak(timing.peak)
        quartiles = _quartiles(timing.seconds)
        who = (timing.model, timing.engine, milliseconds(timing.seconds.median), quartiles)
        rows.append((*who, *against, *engines, promised, share, peak))
    return rows


def rate(case: Case) -> str:
    """Return how long a case was measured, and what the machine reached meanwhile."""
    reached = f"{case.rate.median / 1e9:.3g} GFLOP/s (best {case.rate.best / 1e9:.3g})"
    return f"{case.rounds} rounds; the machine's dense rate is {reached}"


def operations(case: Case) -> str:
    """Return what the models compute."""
    shown = [f"{name} {_giga(f.dense)}, {_giga(f.effective)} without zeros" for name, f in case.flops.items()]
    return f"FLOPs of a forward: {'; '.join(shown)}"


def sentences(result: Result, case: Case) -> Iterator[tuple[str, str]]:
    """Yield (model on engine, sentence): what the numbers do not say by themselves."""
    for timing in case.timings:
        if timing.model == result.against:
            continue
        told = "This run shows no difference. " if timing.speedup is not None and timing.speedup.open else ""
        yield f"{timing.model}, {timing.engine}", told + timing.why


def milliseconds(seconds: float) -> str:
    """Return a time in ms, of three digits."""
    return f"{_digits(1000 * seconds)} ms"


def size(count: int) -> str:
    """Return bytes in MB or kB (powers of ten)."""
    return f"{_digits(count / 1e6)} MB" if count >= 1e6 else f"{_digits(count / 1e3)} kB"


def interval(ratio: Ratio) -> str:
    """Return a ratio with its interval, so exact that one that does not include 1 does not seem to."""
    near = min(abs(ratio.low - 1), abs(ratio.high - 1)) < 0.005
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(ratio.median, ratio.low, ratio.high, d=4 if near else 2)


def _model(model: Model) -> Row:
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in model.metrics.items())
    sizes = size(model.disk), f"{size(model.compressed)}", size(model.memory)
    return model.name, model.kind, f"{model.weights:,}", f"{model.sparsity:.2%}", *sizes, metrics or "none known"


def _quartiles(seconds: Spread) -> str:
    return f"{_digits(1000 * seconds.low)} to {_digits(1000 * seconds.high)}"


def _interval(ratio: Ratio | None) -> str:
    return interval(ratio) if ratio is not None else ""


def _peak(peak: Peak | None) -> str:
    return f"{size(peak.whole)} ({size(peak.own)})" if peak is not None else "?"


def _giga(flops: int) -> str:
    return f"{_digits(flops / 1e9)} G" if flops >= 1e8 else f"{_digits(flops / 1e6)} M"


def _digits(value: float) -> str:
    """Return a number with three digits, and none of an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
