"""Axes of metrics: what they cover, so that a difference of a point does not look like a cliff, and their numbers."""

from __future__ import annotations

from collections.abc import Iterable

FRACTIONS = ("accuracy", "f1", "exact_match", "precision", "recall")
"""Metrics in [0, 1] that are written in percent."""

CORRELATIONS = ("matthews", "spearman", "pearson")
"""Metrics in [−1, 1]."""

POINTS = 0.1
"""What an axis of these covers at least: ten points."""

SHARE = 0.2
"""What an axis of any other metric covers at least, as a part of its largest value."""

MARGIN = 0.06
"""Room beyond the values, as a part of what is covered."""


def limits(metric: str, values: Iterable[float]) -> tuple[float, float]:
    """Return the ends of the axis of a metric with some values (at least one)."""
    found = list(values)
    low, high = min(found), max(found)
    bounded = metric in FRACTIONS or metric in CORRELATIONS
    least = POINTS if bounded else (SHARE * max(abs(low), abs(high)) or 1.0)
    room = max(least - (high - low), 0.0) / 2
    low, high = low - room, high + room
    if bounded and max(found) <= 1 < high:
        low, high = low - (high - 1), 1.0
    margin = MARGIN * (high - low)
    return low - margin, high + margin


def written(metric: str, value: float) -> str:
    """Return a value as it is read: in percent where it is a fraction."""
    return f"{value:.1%}" if metric in FRACTIONS else f"{value:.3f}" if metric in CORRELATIONS else f"{value:.4g}"


def tick(metric: str, value: float) -> str:
    """Return the number at a mark of the axis; none beyond 100 %."""
    if metric in FRACTIONS:
        return f"{100 * value:.3g}%" if value <= 1 + 1e-9 else ""
    return f"{value:.4g}"
