"""Accuracy against speed and size: what one or several results give as points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparsify.benchmarking.results import Case, Model, Result
from sparsify.errors import BenchmarkError, did_you_mean
from sparsify.report.folder import METRICS

LESS_IS_BETTER = ("loss", "mse", "perplexity")

Point = tuple[str, float, float]
"""(name of the model, x, metric)."""


@dataclass(frozen=True)
class Panel:
    """Points of one picture."""

    title: str
    axis: str
    points: tuple[Point, ...]
    small_x: bool = False
    """Whether less is better on the horizontal axis."""

    reference: float | None = None
    """The metric of the model that all are compared with."""


def panels(results: Sequence[Result], metric: str) -> list[Panel]:
    """Return size first, then speed for each engine and shape of inputs.

    Speeds are relative to the model that all of a run are compared with; of one run without such a model they are
    forwards a second. Raises BenchmarkError for several runs without one.
    """
    relative = all(result.against is not None for result in results)
    if not relative and len(results) > 1:
        raise BenchmarkError("times of several runs cannot be drawn together: measure each with --against")
    axis = "times as fast as the model compared with" if relative else "forwards a second"
    sizes: list[Point] = []
    speeds: dict[str, list[Point]] = {}
    for number, result in enumerate(results, 1):
        names = {model.name: _name(model, number, results) for model in result.models}
        scored = [model for model in result.models if metric in model.metrics]
        sizes += [(names[model.name], model.compressed / 1e6, model.metrics[metric]) for model in scored]
        for case in result.cases:
            for engine in result.engines:
                drawn = speeds.setdefault(f"{engine}, {case.title}", [])
                drawn += [
                    (names[model.name], _speed(result, case, engine, model), model.metrics[metric]) for model in scored
                ]
    reference = _reference(results, metric)
    size = Panel("size", "MB of weights, compressed with zstd", _once(sizes), small_x=True, reference=reference)
    return [size, *(Panel(title, axis, _once(points), reference=reference) for title, points in speeds.items())]


def _reference(results: Sequence[Result], metric: str) -> float | None:
    """Return the metric of the model that others are compared with; None without one, or where runs differ in it."""
    found = {model.metrics.get(metric) for result in results for model in result.models if model.name == result.against}
    return found.pop() if len(found) == 1 else None


def choose(models: Sequence[Model], asked: str | None) -> str | None:
    """Return the metric to draw: the one asked for, else the first known that most models have; None without any.

    Raises BenchmarkError for one that no model has.
    """
    every = [set(model.metrics) for model in models]
    there = sorted(set().union(*every))
    if asked is not None and asked not in there:
        hint = did_you_mean(asked, there) if there else ": none of them has a report.json with metrics"
        raise BenchmarkError(f"--metric {asked}: no model has it{hint}")
    known = [metric for metric in METRICS if metric in there]
    return asked or max(known, key=lambda metric: sum(metric in has for has in every), default=None)


def _name(model: Model, number: int, results: Sequence[Result]) -> str:
    """Return a model's name; with the number of its result where another one has it for another model."""
    alike = [other for result in results for other in result.models if other.name == model.name]
    same = all((other.compressed, other.metrics) == (model.compressed, model.metrics) for other in alike)
    return model.name if same else f"{model.name} (result {number})"


def _speed(result: Result, case: Case, engine: str, model: Model) -> float:
    timing = case.timing(model.name, engine)
    if result.against is None:
        return 1 / timing.seconds.median
    return timing.speedup.median if timing.speedup is not None else 1.0


def _once(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return points without those that stand there already: the same dense model of several runs."""
    return tuple(dict.fromkeys(points))
