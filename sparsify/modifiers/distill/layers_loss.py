"""How far what passes through the student's layers is from what passes through the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsify.errors import HookError
from sparsify.modifiers.distill import losses
from sparsify.modifiers.distill.layer_map import LayerPair
from sparsify.modifiers.distill.positions import attended, mean_over
from sparsify.modifiers.distill.recorder import Seen
from sparsify.modifiers.distill.terms import AttentionTerm, HiddenTerm

Inputs = Mapping[str, Any]
Project = Callable[[str, Tensor], Tensor]
"""From (name of the student's layer, hidden states) to hidden states of the teacher's width."""


def hidden_loss(
    term: HiddenTerm, pairs: Sequence[LayerPair], student: Seen, teacher: Seen, inputs: Inputs, project: Project
) -> Tensor:
    """Return the sum over pairs of layers; padding is left out. Raises HookError for shapes that do not agree."""
    parts = []
    for pair in pairs:
        mine, theirs = _found(student.hidden, pair.student.name), _found(teacher.hidden, pair.teacher.name)
        theirs = theirs.to(mine.device)
        mine = project(pair.student.name, mine)
        if mine.shape != theirs.shape:
            raise HookError(
                f"{pair.student.name} gives {list(mine.shape)}, the teacher's {pair.teacher.name} {list(theirs.shape)}"
                ": they cannot be compared"
            )
        valid = attended(inputs, mine.shape[:-1], decoder=_in_decoder(pair, inputs)) if mine.dim() == 3 else None
        parts.append(_hidden(term, mine, theirs, valid))
    return torch.stack(parts).sum()


def _hidden(term: HiddenTerm, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
    if term.loss == "squarehead":
        return (
            losses.square_head(student, teacher)
            if valid is None
            else losses.square_head(student[valid], teacher[valid])
        )
    if student.dim() > 3:  # images: every place counts alike
        student, teacher = student.flatten(1), teacher.flatten(1)
    each = losses.mse(student, teacher) if term.loss == "mse" else losses.cosine(student, teacher)
    return mean_over(each, valid)


def attention_loss(
    term: AttentionTerm, pairs: Sequence[tuple[str, str, bool]], student: Seen, teacher: Seen, inputs: Inputs
) -> Tensor:
    """Return the sum over pairs of attention blocks (student's, teacher's, whether in a decoder).

    Rows of queries that are padding are left out. Raises HookError where a block gives no probabilities.
    """
    parts = []
    for one, two, decoder in pairs:
        mine, theirs = _probabilities(student.maps, one), _probabilities(teacher.maps, two)
        theirs = theirs.to(mine.device)
        if mine.shape[1] != theirs.shape[1]:
            mine, theirs = mine.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
        if mine.shape != theirs.shape:
            raise HookError(f"{one} attends over {list(mine.shape)}, the teacher's {two} over {list(theirs.shape)}")
        valid = attended(inputs, torch.Size((mine.shape[0], mine.shape[2])), decoder=decoder)
        each = losses.mse(mine, theirs) if term.loss == "mse" else losses.attention_kl(mine, theirs)
        parts.append(mean_over(each, None if valid is None else valid[:, None, :].expand_as(each)))
    return torch.stack(parts).sum()


def _in_decoder(pair: LayerPair, inputs: Inputs) -> bool:
    return "decoder" in pair.student.stack.split(".") and ("labels" in inputs or "decoder_input_ids" in inputs)


def _found(hidden: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in hidden:
        raise HookError(
            f"the layer {name} was not run in this forward: it cannot be distilled; where layers are skipped at random "
            "(`layerdrop`), set that to 0"
        )
    return hidden[name]


def _probabilities(maps: Mapping[str, Tensor], name: str) -> Tensor:
    found = maps.get(name)
    if found is None:
        raise HookError(f'{name} gave no attention probabilities: load both models with attn_implementation="eager"')
    return found
