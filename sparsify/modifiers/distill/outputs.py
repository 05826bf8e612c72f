"""The logits among what a model returns, and how far the student's are from the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.errors import HookError
from sparsify.layers.adapters import base_of
from sparsify.modifiers.distill import losses
from sparsify.modifiers.distill.positions import attended, labelled, mean_over
from sparsify.modifiers.distill.sampled import Sampled, sampled_kl
from sparsify.modifiers.distill.terms import LogitsTerm

SPANS = ("start_logits", "end_logits")
"""The two heads of question answering: each is a distribution over positions."""


def with_spans(outputs: Any, model: nn.Module) -> Any:
    """Return the outputs of a model; where one that answers questions returns a tuple, its two heads by name."""
    if isinstance(outputs, tuple) and type(base_of(model)).__name__.endswith("ForQuestionAnswering"):
        tensors = [part for part in outputs if isinstance(part, Tensor) and part.dim() >= 2][:2]
        if len(tensors) == 2 and tensors[0].dim() == 2 and tensors[0].shape == tensors[1].shape:
            return dict(zip(SPANS, tensors, strict=True))
    return outputs


def logits_of(outputs: Any) -> dict[str, Tensor]:
    """Return the logits by name; those of question answering are two. Raises HookError where there are none.

    `outputs` is a mapping with `logits` (or `start_logits` and `end_logits`), a tensor, or a tuple, of which the first
    tensor with two dimensions or more counts.
    """
    if isinstance(outputs, Tensor):
        return {"logits": outputs}
    if isinstance(outputs, Mapping):
        for names in (("logits",), SPANS):
            found = {name: outputs[name] for name in names if isinstance(outputs.get(name), Tensor)}
            if len(found) == len(names):
                return found
        raise HookError(
            f"no logits among the outputs of the model, which are {', '.join(map(str, outputs))}: it has no head "
            "(distil its `hidden` states), or its loss is fused with the output layer, as in TRL's SFTTrainer (let the "
            "model return its logits, as in the stock Trainer)"
        )
    if isinstance(outputs, (tuple, list)):
        tensors = [part for part in outputs if isinstance(part, Tensor) and part.dim() >= 2]
        if tensors:
            return {"logits": tensors[0]}
    raise HookError(f"no logits among the outputs of the model, a {type(outputs).__name__}")


def logits_loss(
    term: LogitsTerm, student: Any, teacher: Any, inputs: Mapping[str, Any], *, shifted: bool, apart: bool = False
) -> Tensor:
    """Return how far the student's logits are from the teacher's: the mean over valid positions, float32.

    `[batch, classes]`: one position a row; `[batch, positions, classes]`: padding and labels of −100 are left out;
    start and end logits `[batch, positions]`: distributions over the positions that are not padding, their mean.
    `apart`: each class is a yes or no of its own, as where a text has several labels; their mean. `teacher` is what it
    returns, or what a cache knows of it. Raises HookError for logits of other shapes.
    """
    mine = logits_of(student)
    if isinstance(teacher, Sampled):
        logits = mine["logits"]
        valid = counted("logits", logits.shape, inputs, shifted=shifted)
        return mean_over(sampled_kl(logits, teacher, term.temperature), valid)
    theirs = logits_of(teacher)
    check_same(mine, theirs)
    theirs = {name: logits.to(mine[name].device) for name, logits in theirs.items()}
    parts = [_one(term, name, mine[name], theirs[name], inputs, shifted, apart) for name in mine]
    return torch.stack(parts).mean()


def check_same(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Raise HookError where the teacher's logits have other names or shapes than the model's."""
    if mine.keys() != theirs.keys():
        raise HookError(f"the model returns {', '.join(mine)}, the teacher {', '.join(theirs)}")
    for name in mine:
        if mine[name].shape != theirs[name].shape:
            shapes = list(mine[name].shape), list(theirs[name].shape)
            raise HookError(f"the model's {name} are {shapes[0]}, the teacher's {shapes[1]}")


def counted(name: str, shape: torch.Size, inputs: Mapping[str, Any], *, shifted: bool) -> Tensor | None:
    """Return which positions count for logits of this name and shape, as bool; None for all.

    `[batch]` for `[batch, classes]`, else `[batch, positions]`.
    """
    if name in SPANS:
        return attended(inputs, shape)
    places = shape[:-1]
    valid = labelled(inputs.get("labels"), places, shifted=shifted)
    if valid is None and len(shape) == 3:
        decoder = "decoder_input_ids" in inputs or "decoder_attention_mask" in inputs
        valid = attended(inputs, places, decoder=decoder)
    return valid


def _one(
    term: LogitsTerm, name: str, student: Tensor, teacher: Tensor, inputs: Mapping[str, Any], shifted: bool, apart: bool
) -> Tensor:
    if student.dim() not in (2, 3):
        raise HookError(
            f"{name} of shape {list(student.shape)} cannot be distilled; expected [batch, classes] or "
            "[batch, positions, classes]"
        )
    valid = counted(name, student.shape, inputs, shifted=shifted)
    if name not in SPANS:
        if valid is not None:  # of a masked language model most positions do not count
            student, teacher = student[valid], teacher[valid]
        each = _each(term, student, teacher, apart)
        return each.sum() / max(each.numel(), 1)
    if valid is not None:
        student, teacher = (logits.float().masked_fill(~valid, -torch.inf) for logits in (student, teacher))
    return mean_over(_each(term, student, teacher, False), None)


def several_labels(model: nn.Module) -> bool:
    """Whether each class is a yes or no of its own; transformers finds it out at the first labels."""
    return getattr(getattr(model, "config", None), "problem_type", None) == "multi_label_classification"


def _each(term: LogitsTerm, student: Tensor, teacher: Tensor, apart: bool) -> Tensor:
    """Return the loss of each position; `apart`, the mean over classes, each a distribution over yes and no."""
    if term.loss in ("kl", "jsd"):
        if apart:
            student, teacher = (torch.stack([each, torch.zeros_like(each)], dim=-1) for each in (student, teacher))
            return _divergence(term, student, teacher).mean(-1)
        if student.shape[-1] == 1:
            raise HookError(
                f"logits of one class ({list(student.shape)}) are no distribution, so that {term.loss} is 0 whatever "
                "they are: write `loss: mse`"
            )
        return _divergence(term, student, teacher)
    return losses.mse(student, teacher) if term.loss == "mse" else losses.cosine(student, teacher)


def _divergence(term: LogitsTerm, student: Tensor, teacher: Tensor) -> Tensor:
    if term.loss == "kl":
        return losses.kl(student, teacher, term.temperature)
    return losses.jsd(student, teacher, term.temperature, 0.5 if term.beta is None else term.beta)
