"""Which of several points nothing beats: none is as good in both ways and better in one."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]], *, small_x: bool = False, small_y: bool = False) -> list[int]:
    """Return the places of the points that nothing beats, by x; `small_x`, `small_y`: the less the better."""
    good = [(-x if small_x else x, -y if small_y else y) for x, y in points]
    left = [place for place, point in enumerate(good) if not any(_beats(other, point) for other in good)]
    return sorted(left, key=lambda place: points[place])


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] >= other[1]
