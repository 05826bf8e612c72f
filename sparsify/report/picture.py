"""Pictures of a run: sparsity over time, and per tensor. PNG, and SVG inside a self-contained page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsify.density import Count

BLUE, ORANGE, GREY = "#2a6fbb", "#e07b39", "#8a8f98"


@dataclass(frozen=True)
class Curves:
    """What is drawn over optimizer steps (entry i belongs to i + 1 completed steps)."""

    sparsity: Sequence[float]
    target: Sequence[float | None] = ()
    metric: Sequence[tuple[int, float]] = ()
    metric_name: str = "accuracy"
    reference: float | None = None
    """The dense model's metric, drawn as a line."""


@dataclass(frozen=True)
class Picture:
    """A drawn figure in both forms."""

    png: bytes
    svg: str = field(repr=False)


def draw(title: str, curves: Curves, tensors: Mapping[str, Count]) -> Picture:
    """Draw the schedule with the metric above, and every tensor's sparsity below."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(
        {"font.size": 10, "axes.spines.top": False, "svg.fonttype": "none", "svg.hashsalt": "sparsify"}
    ):
        height = 3.6 + 0.22 * max(len(tensors), 4)
        figure = Figure(figsize=(10, height), dpi=120, layout="constrained")
        upper, lower = figure.subplots(2, 1, height_ratios=[3.2, 0.22 * max(len(tensors), 4) + 0.6])
        figure.suptitle(title, fontweight="bold")
        _schedule(upper, curves)
        _tensors(lower, tensors)
        return Picture(_render(figure, "png"), _render(figure, "svg").decode())


def _schedule(axes: Any, curves: Curves) -> None:
    steps = range(1, len(curves.sparsity) + 1)
    wanted = [(step, value) for step, value in zip(steps, curves.target, strict=False) if value is not None]
    if wanted:
        axes.plot(*zip(*wanted, strict=True), color=GREY, linewidth=4, alpha=0.4, label="sparsity asked for")
    axes.plot(steps, curves.sparsity, color=BLUE, label="sparsity in the masks")
    axes.set(xlabel="optimizer step", ylabel="sparsity", ylim=(-0.02, 1.02))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    if curves.metric:
        beside = axes.twinx()
        beside.plot(
            *zip(*curves.metric, strict=True),
            color=ORANGE,
            marker="o",
            markersize=3,
            label=curves.metric_name,
        )
        if curves.reference is not None:
            beside.axhline(curves.reference, color=ORANGE, linestyle=":", label=f"{curves.metric_name}, dense")
        beside.set_ylabel(curves.metric_name)
        beside.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
        handles = [line for part in (axes, beside) for line in part.get_lines()]
        axes.legend(handles, [line.get_label() for line in handles], loc="lower right", frameon=False)
    else:
        axes.legend(loc="lower right", frameon=False)


def _tensors(axes: Any, tensors: Mapping[str, Count]) -> None:
    names = list(tensors)[::-1]
    values = [tensors[name].sparsity for name in names]
    bars = axes.barh(names, values, color=BLUE, height=0.7)
    axes.bar_label(bars, [f"{value:.1%}" for value in values], padding=3, fontsize=8, color=GREY)
    axes.set(xlim=(0, 1.08), xlabel="zeros in the tensor")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}" if value <= 1 else "")
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(y=0.01)


def _render(figure: Any, form: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else None
    figure.savefig(buffer, format=form, metadata=metadata)
    return buffer.getvalue()
