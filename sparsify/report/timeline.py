"""A recipe over time, without a model: when each modifier acts, and how sparse its targets are by then."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle

from sparsify.durations import Duration
from sparsify.modifiers.span import Span
from sparsify.modifiers.track import Track
from sparsify.recipe import Recipe
from sparsify.report import figures
from sparsify.report.figures import BLUE, GREEN, GREY, ORANGE

STEPS, PER_EPOCH = 1000, 100
"""The run that is imagined where its length is not given."""

MOST_POINTS, FEWEST_POINTS = 100_000, 16
"""Points of all tracks together, and of one: what is drawn does not grow with the number of updates."""
MOST_POINTS_OF_ONE = 1000
MOST_DRAWN = 40
"""Tracks in the picture; the text has all."""

BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Timeline:
    """A run of `total` steps, its stages (name, first step) and (name, track) of each modifier that has one."""

    total: int
    stages: tuple[tuple[str, int], ...]
    tracks: tuple[tuple[str, Track], ...]


def timeline(recipe: Recipe, total: int | None = None, per_epoch: int | None = None) -> Timeline:
    """Lay a recipe out over a run. Raises ClockError for windows that do not fit into it."""
    recipe = recipe.resolve()
    per_epoch = per_epoch or PER_EPOCH
    total = total or _long_enough(recipe, per_epoch)
    whole = Span(0, total, per_epoch)
    lengths = [whole.steps(stage.length) if stage.length else None for stage in recipe.staged()]
    rest = total - sum(length or 0 for length in lengths)
    modifiers = sum(len(stage.modifiers) for stage in recipe.staged())
    most = min(max(MOST_POINTS // max(modifiers, 1), FEWEST_POINTS), MOST_POINTS_OF_ONE)
    begin, stages, tracks = 0, [], []
    for stage, length in zip(recipe.staged(), lengths, strict=True):
        span = Span(begin, rest if length is None else length, per_epoch)
        stages.append((stage.name, begin))
        for modifier, name in zip(stage.modifiers, stage.names(), strict=True):
            track = modifier.track(span, most)
            if track is not None:
                tracks.append((name, track))
        begin += span.length or 0
    return Timeline(total, tuple(stages), tuple(tracks))


def _long_enough(recipe: Recipe, per_epoch: int) -> int:
    """Return a length that holds every duration of the recipe that is not a percentage."""
    found: list[Duration | None] = []
    for stage in recipe.staged():
        found += [stage.length, *(duration for modifier in stage.modifiers for duration in modifier.durations())]
    steps = [d.amount * (per_epoch if d.unit == "epochs" else 1) for d in found if d is not None and d.unit != "%"]
    return max(STEPS, *(int(2 * amount) for amount in steps)) if steps else STEPS


def in_text(found: Timeline, width: int = 60) -> list[str]:
    """Return a line of bars for every track, and an axis: the higher a bar, the sparser."""
    longest = max((len(name) for name, _ in found.tracks), default=0)
    lines = []
    for name, track in found.tracks:
        bars = "".join(_bar(track, (column + 0.5) * found.total / width) for column in range(width))
        last = f" {track.points[-1][1]:.0%}" if track.points else f" ({track.words})"
        lines.append(f"{name:<{longest}} |{bars}|{last}")
    quarters = [f"{quarter * 25}%" for quarter in range(5)]
    axis = "".join(f"{label:<{width // 4}}" for label in quarters)
    lines.append(" " * (longest + 2) + axis.rstrip())
    if len(found.stages) > 1:
        names = ", ".join(f"{name} from {begin / found.total:.0%}" for name, begin in found.stages)
        lines.append(" " * (longest + 2) + f"stages: {names}")
    return lines


def _bar(track: Track, step: float) -> str:
    if not track.points:
        over = not track.lasts and step >= track.window.end
        return "·" if step < track.window.begin or over else "─"
    value = track.at(step)
    return "·" if value is None else BARS[min(round(value * (len(BARS) - 1)), len(BARS) - 1)]


def draw(found: Timeline, title: str) -> bytes:
    """Draw the timeline as a PNG."""
    from matplotlib.figure import Figure

    with figures.drawing():
        figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
        axes = figure.subplots()
        figure.suptitle(figures.title(title), fontweight="bold")
        for (name, track), colour in zip(found.tracks[:MOST_DRAWN], cycle((BLUE, ORANGE, GREEN, GREY)), strict=False):
            window = track.window
            axes.axvspan(*(100 * step / found.total for step in (window.begin, window.end)), color=colour, alpha=0.08)
            if track.points:
                steps = [100 * step / found.total for step, _ in track.points] + [100.0]
                values = [value for _, value in track.points] + [track.points[-1][1]]
                axes.step(steps, values, where="post", color=colour, label=name)
            else:
                axes.axvline(
                    100 * window.begin / found.total, color=colour, linestyle=":", label=f"{name} ({track.words})"
                )
        for name, begin in found.stages[:MOST_DRAWN] if len(found.stages) > 1 else ():
            axes.axvline(100 * begin / found.total, color=GREY, linewidth=0.8)
            axes.text(100 * begin / found.total + 0.5, 1.02, name, color=GREY, fontsize=9)
        axes.set(xlabel="percent of the training", ylabel="sparsity", xlim=(0, 100), ylim=(-0.02, 1.08))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        if found.tracks:
            axes.legend(loc="lower right", frameon=False)
        return figures.render(figure, "png")
