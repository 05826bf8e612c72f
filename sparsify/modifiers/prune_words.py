"""A `prune` in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsify.spec import gist

if TYPE_CHECKING:
    from sparsify.modifiers.prune import Prune

DEFAULT = "every linear and convolutional weight inside the layers (embeddings, pooler and task head are spared)"


def sentences(prune: Prune) -> list[str]:
    """Return what it does, a sentence or two for each question that it answers."""
    told = [f"Prunes {_targets(prune)}."]
    told.append(f"What a weight is worth: {prune.criterion.label()} ({gist(prune.criterion)})")
    told.append(f"What lives or dies together: {prune.pattern.label()} ({gist(prune.pattern)})")
    told.append(f"Who competes: {prune.scope.label()} ({gist(prune.scope)})")
    told.append(f"How much: {_amount(prune)}")
    told.append(f"When: {_when(prune)}")
    told.append("Pruned weights are exactly zero outside the optimizer's step; their gradients are dropped in it.")
    return told


def _targets(prune: Prune) -> str:
    named = prune.targets is not None and tuple(prune.targets) != ("default",)
    text = _list(prune.targets or ()) if named else DEFAULT
    if prune.layers is not None:
        text += f", in layers {_list(prune.layers)}"
    if prune.exclude is not None:
        text += f", except {_list(prune.exclude)}"
    return text


def _amount(prune: Prune) -> str:
    ramp = prune.sparsity
    if ramp is None:
        return "what is zero when it begins stays zero; nothing more is pruned."
    if ramp.curve.once:
        return f"{ramp.to:.1%} of the targeted weights, at once."
    start = "the zeros that are there" if isinstance(ramp.from_, str) else f"{ramp.from_:.1%}"
    curve = f"along the {ramp.curve.label()} curve ({gist(ramp.curve)})"
    return f"from {start} to {ramp.to:.1%} of the targeted weights, {curve}"


def _when(prune: Prune) -> str:
    window = prune.window
    if prune.sparsity is None or prune.sparsity.curve.once:
        return f"once, after {window.begin} of the stage; the masks stay afterwards."
    end = f"{window.end}" if window.end is not None else "its end"
    return f"from {window.begin} of the stage to {end}, a new mask every {window.every}; the masks stay afterwards."


def _list(words: Sequence[str]) -> str:
    return " and ".join(words) if len(words) < 3 else ", ".join(words[:-1]) + f" and {words[-1]}"
