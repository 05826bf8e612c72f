"""A `prune` in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from sparsify.criteria.learned import Learned
from sparsify.modifiers.prune.fields import PruneFields
from sparsify.spec import gist

DEFAULT = "every linear and convolutional weight inside the layers (not embeddings, pooler and task head)"


def sentences(prune: PruneFields) -> list[str]:
    """Return what it does, a sentence or two for each question that it answers."""
    lines = [f"Prunes {_targets(prune)}."]
    lines.append(f"What a weight is worth: {prune.criterion.label()} ({gist(prune.criterion)})")
    lines.append(f"Pruned together: {prune.pattern.label()} ({gist(prune.pattern)})")
    lines.append(f"Budget: {prune.scope.label()} ({gist(prune.scope)})")
    lines.append(f"How much: {_amount(prune)}")
    lines.append(f"When: {_when(prune)}")
    lines += _learning(prune.criterion) if isinstance(prune.criterion, Learned) else []
    if prune.dense:
        lines.append(
            "Until the window ends the model is dense and pulled towards a sparse copy, which it then becomes."
        )
        return lines
    lines.append("Pruned weights are exactly zero outside of optimizer.step(), and their gradients are dropped.")
    if prune.latent:
        lines.append("Their values are kept aside, so that they may come back until the window ends.")
    if prune.biases:
        lines.append("A bias is pruned where all the weights of its row are.")
    return lines


def _learning(criterion: Learned) -> list[str]:
    clock = "rises and falls with your learning rate" if criterion.follow else "stays constant"
    return [
        f"Its scores start at {criterion.init} and are trained by {criterion.optimizer} with their own learning rate, "
        f"{criterion.learning_rate:g}, which {clock}, from the beginning of the stage to the end of the window."
    ]


def _targets(prune: PruneFields) -> str:
    named = prune.targets is not None and tuple(prune.targets) != ("default",)
    text = _list(prune.targets or ()) if named else DEFAULT
    if prune.layers is not None:
        text += f", in layers {_list(prune.layers)}"
    if prune.exclude is not None:
        text += f", except {_list(prune.exclude)}"
    return text


def _amount(prune: PruneFields) -> str:
    ramp = prune.sparsity
    if ramp is None and prune.penalty is not None:
        return f"what a penalty of {prune.penalty.to:g} leaves above the threshold: not known beforehand."
    if ramp is None:
        return "what is zero when it begins stays zero; nothing more is pruned."
    if ramp.curve.once:
        return f"{ramp.to:.1%} of the targeted weights, at once."
    start = "the zeros that are there" if isinstance(ramp.from_, str) else f"{ramp.from_:.1%}"
    curve = f"along the {ramp.curve.label()} curve ({gist(ramp.curve)})"
    steered = " A penalty is steered until it follows." if prune.criterion.gated else ""
    return f"from {start} to {ramp.to:.1%} of the targeted weights, {curve}{steered}"


def _when(prune: PruneFields) -> str:
    window = prune.window
    if prune.criterion.keeps_zeros or (prune.sparsity is not None and prune.sparsity.curve.once):
        return f"once, after {window.begin} of the stage; the masks stay afterwards."
    end = f"{window.end}" if window.end is not None else "its end"
    return f"from {window.begin} of the stage to {end}, a new mask every {window.every}; the masks stay afterwards."


def _list(words: Sequence[str]) -> str:
    return " and ".join(words) if len(words) < 3 else ", ".join(words[:-1]) + f" and {words[-1]}"
