"""What can be known of a distillation before there is a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from sparsify.layers.adapters import base_of
from sparsify.layers.fresh import new_parameters
from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.distill.cache import kept_whole
from sparsify.modifiers.distill.fields import SELF, DistillFields, DistillTerm
from sparsify.modifiers.distill.layer_map import unmatched
from sparsify.modifiers.distill.plan import DistillPlan
from sparsify.modifiers.distill.recorder import without_maps
from sparsify.modifiers.distill.terms import AttentionTerm, LayerTerm, LogitsTerm
from sparsify.modifiers.span import ClockError


def plan_of(spec: DistillFields, context: PlanContext) -> DistillPlan | None:
    """Return the plan, or None after reporting what does not fit."""
    for path, message in _problems(spec, context):
        context.problem(message, *path)
    try:
        window = spec.window(context.span)
    except ClockError as error:
        context.problem(str(error), *([error.key] if error.key in ("begin", "end") else []))
        return None
    if context.problems:
        return None
    if window.begin == window.end:
        context.problem("it ends when it begins, and would distil in no step", "end" if spec.end else "begin")
        return None
    epoch = context.span.steps_per_epoch
    if spec.cache is not None and epoch and window.end - window.begin <= epoch:
        context.notes.append(f"{context.key}: in one epoch no sample is seen twice, so the cache only helps later runs")
    return DistillPlan(
        key=context.key,
        type=spec.type,
        window=window,
        stage=context.span,
        tensors=(),
        nonzeros=None,
        facts={
            "teacher": spec.teacher,
            **{each.name: words(each.term) for each in spec.named()},
            **({"hardness": spec.hardness.label()} if spec.hardness is not None else {}),
        },
        unknown="prunes nothing",
        spec=spec,
    )


def words(term: DistillTerm) -> str:
    """Return what a term is, in a few words."""
    soft = f" at temperature {term.temperature:g}" if isinstance(term, LogitsTerm) and term.temperature != 1 else ""
    return f"{term.loss}{soft}, weight {term.weight.label()}"


def _problems(spec: DistillFields, context: PlanContext) -> Iterator[tuple[tuple[str | int, ...], str]]:
    model, kind = context.model, type(context.model).__name__
    if spec.teacher == SELF and (new := new_parameters(model)):
        yield (
            ("teacher",),
            (
                f"the model itself cannot be the teacher: {new[0]} is new, with random weights: train it first, "
                "save it, and load it again; or give the teacher (a copy of the trained model) as a binding"
            ),
        )
    for each in spec.named():
        path, term = each.path, each.term
        if isinstance(term, LayerTerm):
            if context.anatomy is None or not context.layered:
                yield path, f"{kind} has no layers, as nothing repeats in it: only logits can be distilled"
            elif term.layers is not None and (problem := unmatched(context.anatomy, term.layers)):
                yield (*path, "layers"), problem
        if isinstance(term, AttentionTerm) and (problem := without_maps(model)):
            yield path, problem
        if isinstance(term, LogitsTerm) and term.loss in ("kl", "jsd") and _is_regression(model):
            yield path, f"{kind} predicts one number, which is no distribution: write `loss: mse`"
    classes = _vocabulary(model) if spec.cache is not None else 0
    if classes and not kept_whole(classes) and (undrawn := spec.undrawn()):
        yield undrawn


def _is_regression(model: nn.Module) -> bool:
    config: Any = getattr(model, "config", None)
    head = type(base_of(model)).__name__.endswith(("ForSequenceClassification", "ForImageClassification"))
    return head and (getattr(config, "num_labels", None) == 1 or getattr(config, "problem_type", None) == "regression")


def _vocabulary(model: nn.Module) -> int:
    """Return how many words a model of transformers chooses among; 0 where it does not, or does not say so."""
    base: Any = base_of(model)
    output = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    weight = getattr(output, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) else 0
