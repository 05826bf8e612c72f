"""Teacher, recorders and layer pairs of a distillation: made once, and shared by its runs for the whole training."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sparsify.anatomy import Anatomy, read
from sparsify.anatomy.parts import Attention, FeedForward, Layer
from sparsify.errors import PlanError
from sparsify.modifiers.contract import Session
from sparsify.modifiers.distill.answers_file import Answers, folder_of
from sparsify.modifiers.distill.fields import CACHE, SELF
from sparsify.modifiers.distill.layer_map import LayerPair, layer_pairs
from sparsify.modifiers.distill.plan import DistillPlan
from sparsify.modifiers.distill.projection import Projections
from sparsify.modifiers.distill.recorder import Recorder, without_maps
from sparsify.modifiers.distill.teacher import Teacher, check_fits, resolve
from sparsify.modifiers.distill.terms import AttentionTerm, HiddenTerm, LayerTerm
from sparsify.modifiers.rate import Rate

Blocks = list[tuple[str, str, bool]]
"""(block of the student, of the teacher, whether they belong to a decoder)."""


@dataclass(frozen=True)
class Setting:
    """What a distillation works with."""

    teacher: Teacher
    recorder: Recorder
    """Of the student."""

    signature: inspect.Signature
    """Of the student's forward."""

    own: bool
    """Whether the teacher is a copy of the student, which the state has to hold."""

    pairs: Mapping[str, list[LayerPair]]
    """By term."""

    blocks: Mapping[str, Blocks]
    """By term that compares attention."""

    answers: Answers | None
    """What the teacher has said, where the recipe has a cache."""


def setting_of(plan: DistillPlan, session: Session) -> Setting:
    """Return the setting of a plan, made when first asked for. Raises PlanError for a teacher that does not fit."""
    found = session.shared.get(plan.key)
    if isinstance(found, Setting):
        return found
    made = session.shared[plan.key] = _make(plan, session)
    session.keep(_Release(plan.spec.teacher, made, session))
    for recorder in (made.recorder, made.teacher.recorder):
        for handle in recorder.handles:
            session.keep(handle)
    return made


def _make(plan: DistillPlan, session: Session) -> Setting:
    spec, student = plan.spec, session.model
    own = spec.teacher == SELF
    model = _teacher_model(plan, session)
    anatomies = read(student), read(model)
    pairs = {
        each.name: _pairs(plan, each.term, *anatomies) for each in spec.named() if isinstance(each.term, LayerTerm)
    }
    if any(isinstance(each.term, AttentionTerm) for each in spec.named()) and (problem := without_maps(model)):
        raise PlanError(f"{plan.key}: the teacher: {problem}")
    blocks = {
        each.name: list(_blocks(pairs[each.name])) for each in spec.named() if isinstance(each.term, AttentionTerm)
    }
    hidden = [pair for each in spec.named() if isinstance(each.term, HiddenTerm) for pair in pairs[each.name]]
    compared = [block for each in blocks.values() for block in each]
    teacher = Teacher(
        model,
        Recorder(
            model,
            _modules(model, [pair.teacher.name for pair in hidden]),
            _modules(model, [two for _, two, _ in compared]),
            lambda: True,
        ),
        student,
    )
    recorder = Recorder(
        student,
        _modules(student, [pair.student.name for pair in hidden]),
        _modules(student, [one for one, _, _ in compared]),
        lambda: torch.is_grad_enabled() and plan.active(session.step()),
    )
    answers = _answers(plan, session, teacher) if spec.cache is not None else None
    return Setting(teacher, recorder, inspect.signature(student.forward), own, pairs, blocks, answers)


@dataclass(frozen=True)
class _Release:
    """Lets go of a teacher when the training is over, though the manager lives on; a copy of the model stays."""

    name: str
    setting: Setting
    session: Session

    def remove(self) -> None:
        """As the handle of a hook."""
        if not self.setting.own:
            self.session.bindings.pop(self.name, None)
            self.session.shared.pop(("teacher", self.name), None)
            self.setting.teacher.release()


def _teacher_model(plan: DistillPlan, session: Session) -> nn.Module:
    """Return the teacher; several distillations share it."""
    spec = plan.spec
    if ("teacher", spec.teacher) not in session.shared:
        given = session.snapshots[plan.key] if spec.teacher == SELF else session.bindings[spec.teacher]
        model = resolve(given, spec.teacher)
        check_fits(model, session.model, spec.teacher)
        session.shared["teacher", spec.teacher] = model
    found: nn.Module = session.shared["teacher", spec.teacher]
    return found


def _answers(plan: DistillPlan, session: Session, teacher: Teacher) -> Answers:
    """Return the answers of the teacher; several distillations share them."""
    name = ("answers", plan.spec.teacher)
    if name not in session.shared:
        folder = folder_of(session.bindings.get(CACHE), CACHE)
        session.shared[name] = Answers(teacher.checksum, folder, plan.key)
        session.keep(session.shared[name])
    found: Answers = session.shared[name]
    return found


def _pairs(plan: DistillPlan, term: LayerTerm, student: Anatomy | None, teacher: Anatomy | None) -> list[LayerPair]:
    assert student is not None  # the plan has seen to it
    if teacher is None or not teacher.layers:
        raise PlanError(f"{plan.key}: the teacher has no layers: nothing repeats in it")
    pairs, problem = layer_pairs(student, teacher, term.layers)
    if problem:
        raise PlanError(f"{plan.key}: {problem}")
    return pairs


def _blocks(pairs: Sequence[LayerPair]) -> Iterator[tuple[str, str, bool]]:
    """Yield the modules that give attention probabilities: those that hold the query."""
    for pair in pairs:
        decoder = "decoder" in pair.student.stack.split(".")
        for one, two in zip(pair.student.attentions, pair.teacher.attentions, strict=False):
            yield _above(one), _above(two), decoder


def _above(block: Attention) -> str:
    return block.query.parameter_name.rpartition(".")[0].rpartition(".")[0]


def _modules(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return modules by name; of a layer that was compiled by itself what is called, so that hooks on it fire."""
    return {name: model.get_submodule(name.removesuffix("._orig_mod")) for name in names}


def projections(plan: DistillPlan, setting: Setting, session: Session) -> dict[str, Projections]:
    """Return the projections of each term on hidden states; without any matrix where the widths agree."""
    device = next((parameter.device for parameter in session.model.parameters()), torch.device("cpu"))
    found = {}
    for each in plan.spec.named():
        if not isinstance(each.term, HiddenTerm):
            continue
        widths: dict[str, tuple[int, int]] = {}
        for pair in setting.pairs[each.name]:
            sizes = _width(pair.student), _width(pair.teacher)
            if None not in sizes and sizes[0] != sizes[1]:
                widths[pair.student.name] = sizes  # type: ignore[assignment]
        found[each.name] = Projections(widths, each.term.learning_rate, Rate(session.optimizers[0], 0), device)
    return found


def _width(layer: Layer) -> int | None:
    """Return how many features come out of a layer; None where that is not known."""
    blocks: list[Attention | FeedForward] = [*layer.feed_forwards, *layer.attentions]
    for block in blocks:
        weight = block.down if isinstance(block, FeedForward) else block.output
        return weight.geometry.rows
    return None
