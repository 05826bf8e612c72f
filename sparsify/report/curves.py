"""Curves over the optimizer steps of a training: the metric beside the dense model's, and the sparsity below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparsify.report import figures
from sparsify.report.figures import BLUE, FAINT, GREY, ORANGE
from sparsify.report.limits import limits, tick, written
from sparsify.report.panels import Panel

HEIGHT = 2.2
"""Inches of a panel."""

Points = Sequence[tuple[int, float]]
"""(completed steps, value)."""


@dataclass(frozen=True)
class Curves:
    """What is drawn over optimizer steps."""

    sparsity: Points = ()
    target: Points = ()
    metric: Points = ()
    metric_name: str = "accuracy"
    reference: float | None = None
    """The dense model's metric, drawn as a line."""

    note: str = ""
    """What must be known to read the metric's curve, drawn beside it."""

    def panels(self) -> list[Panel]:
        """Return a panel for the metric and one for the sparsity, each with an axis of its own; none without points."""
        last = max((step for points in (self.sparsity, self.target, self.metric) for step, _ in points), default=0)
        found = []
        if self.metric:
            found.append(Panel(HEIGHT, lambda axes: self._metric(axes, last)))
        if self.sparsity or self.target:
            found.append(Panel(HEIGHT, lambda axes: self._sparsity(axes, last)))
        return found

    def _metric(self, axes: Any, last: int) -> None:
        name, values = figures.word(self.metric_name), [value for _, value in self.metric]
        label = f"this model: {written(self.metric_name, values[-1])} at the end"
        axes.plot(*zip(*self.metric, strict=True), color=ORANGE, marker="o", markersize=3, label=label)
        if self.reference is not None:
            values.append(self.reference)
            label = f"dense model: {written(self.metric_name, self.reference)}"
            axes.axhline(self.reference, color=GREY, linestyle=":", label=label)
        _over_steps(axes, last)
        axes.set(ylabel=name, ylim=limits(self.metric_name, values))
        axes.yaxis.set_major_formatter(lambda value, _: tick(self.metric_name, value))
        axes.legend(loc="best", frameon=False, fontsize=8)
        axes.set_title(figures.title(self.note), fontsize=8, color=FAINT, loc="left")

    def _sparsity(self, axes: Any, last: int) -> None:
        if self.target:
            axes.plot(*zip(*self.target, strict=True), color=GREY, linewidth=4, alpha=0.4, label="asked for")
        if self.sparsity:
            axes.plot(*zip(*self.sparsity, strict=True), color=BLUE, label="in the masks")
        _over_steps(axes, last)
        axes.set(xlabel="optimizer step", ylabel="sparsity", ylim=(-0.02, 1.02))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.legend(loc="best", frameon=False, fontsize=8)


def _over_steps(axes: Any, last: int) -> None:
    axes.set(xlim=(0, max(last, 1) * 1.01))
    axes.xaxis.get_major_locator().set_params(integer=True)
