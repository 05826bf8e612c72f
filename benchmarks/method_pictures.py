"""Draw the pictures of the method pages from the runs that `method_runs.py` has kept.

On the left the matrices of one layer after the training, a square for every weight (dark: kept); on the right accuracy
and sparsity over the steps; below, the zeros of every matrix. What is drawn are the weights and figures of the run.

    python benchmarks/method_pictures.py RUNS [--only NAME …]
"""

from __future__ import annotations

import argparse
import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from method_runs import PAGES
from PIL import Image
from torch import Tensor

PICTURES = PAGES / "pictures"
WIDTH, HEIGHT = 760, 420
"""Of a picture, in its own units."""

INK, PAPER, BLUE, ORANGE, GREY, RED = "#1f4e79", "#e2e7ed", "#2a6fbb", "#c8611f", "#59616b", "#b3392f"
SHADES = (BLUE, "#5f93cb", "#94b7dc", "#c9dbed", PAPER)
"""Of a matrix, from no zeros to nothing but zeros."""

ROLES = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output", "fc1": "up", "fc2": "down"}
Masks = Mapping[tuple[str, str], Tensor]
Points = Sequence[tuple[float, float]]


def picture(run: Mapping[str, Any]) -> str:
    """Return the picture of a run as SVG."""
    masks = matrices(run["masks"])
    last = len(run["sparsity"])
    accuracy = [(step, 100 * value) for step, value in run["accuracy"]]
    low = min(100 * run["dense"], *(value for _, value in accuracy)) - 2
    if run["series"] is not None:
        values, label = run["series"]["values"], run["series"]["label"]
        most = max(value for _, value in values)
    else:
        values = [(step, 100 * value) for step, value in enumerate(run["sparsity"], 1)]
        label, most = "targeted weights under a mask, %", 100.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(10, 20, _title(run), size=14),
        *_layer(masks),
        *_curve(
            (500, 66, 245, 92), accuracy, BLUE, "accuracy, % (dashed: before)", low, 100.0, last, 100 * run["dense"]
        ),
        *_curve((500, 206, 245, 62), values, ORANGE, label, 0.0, most, last),
        *_cells(masks),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def matrices(masks: Mapping[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    """Return the masks by (layer, role): the ViT's by role, the ResNet's convolutions by their names."""
    found = {}
    for name, mask in masks.items():
        layer = re.search(r"(?:layers|blocks)\.(\d+)\.", name)
        last = name.removesuffix(".weight").rpartition(".")[2]
        role = "shortcut" if "shortcut" in name else ROLES.get(last, last)
        found[(layer[1] if layer else "stem", role)] = mask
    return found


def _title(run: Mapping[str, Any]) -> str:
    here = ", ".join(f"{name}={value}" for name, value in run["settings"].items())
    end = run["accuracy"][-1][1]
    zeros = f"{run['zeros']:.1%} of the targeted weights zero" if run["zeros"] else "nothing is pruned"
    return f"{run['name']}{f' ({here})' if here else ''}: {zeros}; {end:.1%} right, {run['dense']:.1%} before"


def _text(x: float, y: float, words: str, *, size: int = 11, anchor: str = "start", fill: str = "#000") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{fill}">{escape(words)}</text>'


# ---------------------------------------------------------------- one layer, weight by weight


def _layer(masks: Masks) -> Iterable[str]:
    chosen = _chosen(masks)
    yield _text(10, 40, f"layer {chosen} after the training; kept weights are dark", fill=GREY)
    x, y, height = 10.0, 62.0, 0.0
    for (layer, role), kept in masks.items():
        if layer != chosen:
            continue
        mask = kept.T if role == "up" else kept  # so that a neuron is a column in both
        rows, columns = mask.shape
        scale = min(1.0, 445 / columns)
        if x + columns * scale > 460:
            x, y, height = 10.0, y + height + 24, 0.0
        yield _text(x, y - 4, f"{role} {rows}×{columns}{', turned' if role == 'up' else ''}")
        size = f'width="{columns * scale:g}" height="{rows * scale:g}"'
        yield f'<image x="{x:g}" y="{y:g}" {size} style="image-rendering:pixelated" href="{_png(mask)}"/>'
        x, height = x + columns * scale + 8, max(height, rows * scale)


def _chosen(masks: Masks) -> str:
    """Return the layer that is drawn: the second, or the first that is left; of convolutions the last."""
    left = [layer for layer, _ in masks if layer != "stem"]
    if any("conv" in role for _, role in masks):
        return left[-1]
    return "1" if "1" in left else left[0]


def _png(mask: Tensor) -> str:
    """Return a mask as the address of a PNG with a bit for each weight."""
    image = Image.frombytes("L", (mask.shape[1], mask.shape[0]), mask.contiguous().byte().numpy().tobytes())
    image = image.convert("P")
    image.putpalette(bytes.fromhex(PAPER[1:] + INK[1:]))
    out = io.BytesIO()
    image.save(out, format="png", optimize=True, bits=1)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


# ---------------------------------------------------------------- over the steps


def _curve(
    box: tuple[float, float, float, float],
    points: Points,
    colour: str,
    label: str,
    low: float,
    high: float,
    last: int,
    reference: float | None = None,
) -> Iterable[str]:
    left, top, width, height = box

    def place(step: float, value: float) -> tuple[float, float]:
        return left + width * step / last, top + height * (1 - (value - low) / ((high - low) or 1))

    yield _text(left, top - 7, label)
    yield f'<path d="M{left} {top}v{height}h{width}" fill="none" stroke="{GREY}"/>'
    for value in (low, high):
        yield _text(left - 4, place(0, value)[1] + 4, f"{value:.3g}", anchor="end")
    for step in (0, last):
        yield _text(place(step, 0)[0], top + height + 14, f"step {step}", anchor="start" if step == 0 else "end")
    if reference is not None:
        y = place(0, reference)[1]
        yield f'<path d="M{left} {y:.1f}h{width}" stroke="{GREY}" stroke-dasharray="4 3"/>'
    line = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in points)
    yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    if len(points) < 20:
        yield from (
            '<circle cx="{:.1f}" cy="{:.1f}" r="2.5" fill="{}"/>'.format(*place(*point), colour) for point in points
        )


# ---------------------------------------------------------------- every matrix


def _cells(masks: Masks) -> Iterable[str]:
    layers, roles = _layers(masks), list(dict.fromkeys(role for _, role in masks))
    left, top = 62.0, 316.0
    width, height = (WIDTH - left - 12) / len(roles), (HEIGHT - top - 8) / len(layers)
    yield _text(left - 6, top - 6, "zeros, %", anchor="end")
    for column, role in enumerate(roles):
        yield _text(left + (column + 0.5) * width, top - 6, role, anchor="middle")
    for row, layer in enumerate(layers):
        y = top + row * height
        yield _text(left - 6, y + height / 2 + 4, layer if layer == "stem" else f"layer {layer}", anchor="end")
        dropped = all(key[0] != layer for key in masks)
        for column, role in enumerate(roles):
            yield from _cell(left + column * width, y, width - 3, height - 2, masks.get((layer, role)), dropped)


def _layers(masks: Masks) -> list[str]:
    """Return all layers, those that were dropped too."""
    every = 6 if any("conv" in role for _, role in masks) else 4
    return [*(["stem"] if any(layer == "stem" for layer, _ in masks) else []), *map(str, range(every))]


def _cell(x: float, y: float, width: float, height: float, mask: Tensor | None, dropped: bool) -> Iterable[str]:
    frame = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    if mask is not None:
        zeros = 1 - mask.float().mean().item()
        shade = SHADES[min(int(zeros * len(SHADES)), len(SHADES) - 1)]
        yield f'{frame} fill="{shade}"/>'
        ink = "#fff" if shade in SHADES[:2] else "#000"
        yield _text(x + width / 2, y + height / 2 + 4, f"{100 * zeros:.0f}", fill=ink, anchor="middle")
    elif dropped:
        yield f'{frame} fill="none" stroke="{RED}" stroke-dasharray="2 2"/>'
        yield _text(x + width / 2, y + height / 2 + 4, "dropped", fill=RED, anchor="middle")


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder that method_runs.py has written")
    parser.add_argument("--only", nargs="*", help="names of pages")
    arguments = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    for path in sorted(arguments.runs.glob("*.pt")):
        if arguments.only and path.stem not in arguments.only:
            continue
        text = picture(torch.load(path, weights_only=True))
        (PICTURES / f"{path.stem}.svg").write_text(text, encoding="utf-8")
        print(f"{path.stem}: {len(text.encode()) / 1000:.1f} kB")


if __name__ == "__main__":
    main()
