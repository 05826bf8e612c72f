"""A picture of a model's anatomy: where its weights are, layer by layer and role by role, and what is not offered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sparsify.anatomy import Anatomy, Layer
from sparsify.layers import Weight
from sparsify.report import figures
from sparsify.report.figures import BLUE, GREEN, GREY, ORANGE

COLOURS = {"attention": BLUE, "ffn": ORANGE, "conv": GREEN, "router": "#8c5fbf", "other": GREY}
LIGHT, DARK, JOINS = "#c9ccd1", "#5a5f68", "#b8a57a"
STACKS = ("#6f8fae", "#94adc4")
MOST_STACKS, MOST_LAYERS = 24, 200
"""What is drawn; the table has all stacks."""

HATCH = "////"


def draw(title: str, anatomy: Anatomy) -> bytes:
    """Return a PNG: above, the whole model as one bar; below, a bar for each layer of every stack, by role.

    Hatched is where heads or neurons are not offered. Weights are counted, not read.
    """
    from matplotlib.figure import Figure

    stacks: dict[str, list[Layer]] = {}
    for layer in anatomy.layers:
        stacks.setdefault(layer.stack, []).append(layer)
    shown = list(stacks.items())[:MOST_STACKS]
    with figures.drawing():
        figure = Figure(figsize=(10, 1.9 + 1.7 * len(shown)), dpi=120, layout="constrained")
        rows = figure.subplots(1 + len(shown), 1, height_ratios=[1.2, *[1.7] * len(shown)], squeeze=False)[:, 0]
        figure.suptitle(figures.title(title), fontweight="bold")
        _whole(rows[0], anatomy, stacks)
        for axes, (name, layers) in zip(rows[1:], shown, strict=True):
            _stack(axes, name, layers[:MOST_LAYERS])
        figure.legend(handles=_legend(anatomy), loc="outside lower center", ncols=7, frameon=False, fontsize=8)
        return figures.render(figure, "png")


def _whole(axes: Any, anatomy: Anatomy, stacks: dict[str, list[Layer]]) -> None:
    """Draw one bar: embeddings, stacks, what joins them, and the task head."""
    tied = {id(weight.parameter) for weight in anatomy.embeddings}
    head = [weight for weight in anatomy.task_head if id(weight.parameter) not in tied]
    parts: list[tuple[str, int, str]] = [("embeddings", _count(anatomy.embeddings), LIGHT)]
    for place, (name, layers) in enumerate(stacks.items()):
        weights = [weight for layer in layers for _, weight in layer.roles()]
        parts.append((name or "(the model)", _count(weights), STACKS[place % len(STACKS)]))
    parts += [("between", _count(anatomy.between), JOINS), ("task head", _count(head), DARK)]
    total, left = sum(size for _, size, _ in parts) or 1, 0
    for name, size, colour in parts:
        axes.barh(0, size, left=left, color=colour, edgecolor="white", height=0.6)
        if size > 0.06 * total:
            share = f"{figures.word(name)}\n{size / total:.0%}"
            ink = "black" if colour == LIGHT else "white"
            axes.text(left + size / 2, 0, share, ha="center", va="center", fontsize=7, color=ink)
        left += size
    axes.set(xlim=(0, total), ylim=(-0.4, 0.4), yticks=[], xlabel=f"{total:,} matrix weights")
    axes.set_xticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _stack(axes: Any, name: str, layers: Sequence[Layer]) -> None:
    """Draw the layers of a stack side by side, each with its roles one upon another."""
    for place, layer in enumerate(layers):
        sizes: Counter[str] = Counter()
        for role, weight in layer.roles():
            sizes[_group(role)] += weight.geometry.elements
        doubted = _doubted(layer)
        bottom = 0
        for role, colour in COLOURS.items():
            if sizes[role]:
                hatch = HATCH if role in doubted else None
                axes.bar(place, sizes[role], 0.86, bottom, color=colour, hatch=hatch, edgecolor="white", linewidth=0.3)
                bottom += sizes[role]
    axes.set(xlim=(-0.6, max(len(layers), 12) - 0.4), ylabel="weights", xlabel="layer")
    axes.set_title(f"{figures.label(name or '(the model)')}: {_kinds(layers)}", fontsize=9, loc="left")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter(lambda value, _: _short(value))
    axes.tick_params(labelsize=7)


def _kinds(layers: Sequence[Layer]) -> str:
    """Return the families of layers, and how they are known."""
    return ", ".join(
        dict.fromkeys(
            f"{figures.word(layer.family)} ({'inferred' if layer.inferred else 'declared'})" for layer in layers
        )
    )


def _group(role: str) -> str:
    """Return the part of a layer that a role is of."""
    first = role.partition(".")[0]
    return "conv" if first == "shortcut" else first if first in COLOURS else "other"


def _doubted(layer: Layer) -> set[str]:
    """Return the parts of a layer whose heads or neurons are not offered."""
    found = {"attention": any(block.doubt for block in layer.attentions)}
    found["ffn"] = any(block.doubt for block in layer.feed_forwards)
    return {name for name, doubted in found.items() if doubted}


def _legend(anatomy: Anatomy) -> list[Any]:
    from matplotlib.patches import Patch

    there = {_group(role) for layer in anatomy.layers for role, _ in layer.roles()}
    handles = [Patch(color=colour, label=role) for role, colour in COLOURS.items() if role in there]
    if any(_doubted(layer) for layer in anatomy.layers):
        handles.append(Patch(facecolor=LIGHT, hatch=HATCH, edgecolor="white", label="heads or neurons not offered"))
    return handles


def _count(weights: Sequence[Weight]) -> int:
    return sum({id(weight.parameter): weight.parameter.numel() for weight in weights}.values())


def _short(value: float) -> str:
    """Return a count in thousands, millions or billions."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f}"
