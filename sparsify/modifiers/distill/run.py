"""A distillation at work: it adds its terms to the losses of the steps in which it is active."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from sparsify.errors import HookError
from sparsify.modifiers.contract import Run, Session
from sparsify.modifiers.distill.cached import CachedTeacher
from sparsify.modifiers.distill.fields import DistillTerm
from sparsify.modifiers.distill.items import NUMBER, divides_by_items, share
from sparsify.modifiers.distill.layers_loss import attention_loss, hidden_loss
from sparsify.modifiers.distill.outputs import logits_loss, several_labels, with_spans
from sparsify.modifiers.distill.plan import DistillPlan
from sparsify.modifiers.distill.positions import next_token
from sparsify.modifiers.distill.projection import Projections
from sparsify.modifiers.distill.recorder import Arguments, Seen
from sparsify.modifiers.distill.setting import Setting, projections, setting_of
from sparsify.modifiers.distill.teacher import checksum_of_tensors
from sparsify.state_reader import StateReader


class DistillRun(Run):
    """Adds terms in `on_loss`, and sees to it that their gradients arrive."""

    plan: DistillPlan

    def __init__(self, plan: DistillPlan, session: Session) -> None:
        super().__init__(plan)
        self.session = session
        self.spec = plan.spec
        self.setting: Setting = setting_of(plan, session)
        self.projections: dict[str, Projections] = projections(plan, self.setting, session)
        answers = self.setting.answers
        self.cache = CachedTeacher(plan, self.setting.teacher, answers, session.model) if answers is not None else None
        self._shifted = next_token(session.model)
        self._made = self._arrived = 0
        """Losses with terms in this transaction, and those that a backward went through."""

        self._losses = 0
        self._sums: dict[str, Tensor | float] = {each.name: 0.0 for each in plan.spec.named()}

    # ------------------------------------------------------------------ the step

    def on_step_begin(self, step: int, batch: Any) -> None:
        self._made = self._arrived = 0

    def on_loss(self, step: int, loss: Tensor, outputs: Any, inputs: Any) -> Tensor:
        if not self.plan.active(step) or not torch.is_grad_enabled() or not loss.requires_grad:
            return loss
        seen = self.setting.recorder.take(outputs)
        seen.outputs = with_spans(seen.outputs if outputs is None else outputs, self.session.model)
        arguments = seen.arguments if inputs is None else _arguments(inputs)
        named = self._named(arguments)
        if NUMBER in (given := seen.arguments[1]):  # whatever the loop calls its inputs, the loss was divided by it
            named = {NUMBER: given[NUMBER], **named}
        if self.cache is None:
            taught = self.setting.teacher.ask(arguments)
        else:
            taught = Seen(arguments, self.cache.ask(arguments, seen.outputs, named, step))
        progress = self._progress(step)
        part = share(named, shifted=self._shifted) if divides_by_items(self.session.model) else 1.0
        total: Tensor | None = None
        for each in self.spec.named():
            value = self._value(each.name, each.term, seen, taught, named)
            if not value.requires_grad:
                raise HookError(
                    f"{self.key}: {each.name} has no gradient: what it compares is frozen, was detached, or was made "
                    "under no_grad or by reentrant gradient checkpointing (use_reentrant=False keeps it)"
                )
            self._sums[each.name] = self._sums[each.name] + value.detach()
            weighted = value * each.term.weight.at(progress)
            total = weighted if total is None else total + weighted
        assert total is not None
        self._losses += 1
        self._made += 1
        total = total * part
        total.register_hook(self._arrive)  # type: ignore[no-untyped-call]
        if self.spec.hardness is None:
            return loss + total.to(loss.dtype)
        hardness = self.spec.hardness.at(progress)
        return loss * (1 - hardness) + (total * hardness).to(loss.dtype)

    def _arrive(self, gradient: Tensor) -> None:
        self._arrived += 1

    def _named(self, arguments: Arguments) -> Mapping[str, Any]:
        """Return the arguments of the student's forward by name."""
        positional, named = arguments
        if not positional:
            return named
        try:
            return {**self.setting.signature.bind_partial(*positional).arguments, **named}
        except TypeError:  # a forward of other arguments, as in some wrappers
            return named

    def _progress(self, step: int) -> float:
        return self.plan.window.progress(step)

    def _value(self, name: str, term: DistillTerm, student: Seen, teacher: Seen, inputs: Mapping[str, Any]) -> Tensor:
        if term.type == "logits":
            apart = several_labels(self.session.model)
            return logits_loss(term, student.outputs, teacher.outputs, inputs, shifted=self._shifted, apart=apart)
        if term.type == "hidden":
            pairs = self.setting.pairs[name]
            return hidden_loss(term, pairs, student, teacher, inputs, self.projections[name])
        return attention_loss(term, self.setting.blocks[name], student, teacher, inputs)

    def observe(self, step: int) -> None:
        if not self.plan.active(step):
            return
        if not self._made:
            raise HookError(
                f"{self.key}: on_loss() was not called in this step: call `loss = manager.on_loss(loss, outputs, "
                "batch)` after each forward, and backward() on what it returns"
            )
        if not self._arrived:
            raise HookError(
                f"{self.key}: backward() was not called on the loss that on_loss() returned, so nothing was distilled"
            )
        for each in self.projections.values():
            each.collect(self.session.scale())

    def commit(self, step: int, skipped: Collection[int]) -> None:
        self._made = self._arrived = 0
        for each in self.projections.values():
            each.step()

    def rollback(self) -> None:
        for each in self.projections.values():
            each.forget()

    def leave(self, step: int) -> None:
        if self.cache is not None:
            self.cache.answers.write_or_warn()

    # ------------------------------------------------------------------ what was found out, state

    def report(self) -> dict[str, Any]:
        if not self._losses:
            return {}
        return {
            "losses": self._losses,
            "distilled": {name: float(value) / self._losses for name, value in self._sums.items()},
            "teacher": {"type": self.setting.teacher.kind, "sha256": self.setting.teacher.checksum},
            **({"cache": self.cache.report()} if self.cache is not None else {}),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "teacher": self.setting.teacher.checksum,
            "losses": self._losses,
            "sums": {name: float(value) for name, value in self._sums.items()},
            "projections": {name: each.state_dict() for name, each in self.projections.items()},
            **({"weights": self.setting.teacher.weights()} if self.setting.own else {}),
            **({"cache": self.cache.state()} if self.cache is not None else {}),
        }

    def check_state(self, state: StateReader, step: int) -> None:
        own = (*(("weights",) if self.setting.own else ()), *(("cache",) if self.cache is not None else ()))
        state.exactly(("teacher", "losses", "sums", "projections", *own))
        teacher = state.text("teacher")
        state.integer("losses")
        sums, saved = state.part("sums").exactly(list(self._sums)), state.part("projections")
        for name in self._sums:
            sums.measured(name)
        saved.exactly(list(self.projections))
        for name, each in self.projections.items():
            each.check_state(saved.part(name))
        if self.cache is not None:
            self.cache.check_state(state.part("cache"))
        if self.setting.own:
            weights = state.part("weights")
            mine = self.setting.teacher.weights()
            weights.exactly(list(mine))
            for name, tensor in mine.items():
                weights.tensor(name, tuple(tensor.shape), tensor.dtype)
            if checksum_of_tensors({name: weights.any(name) for name in mine}) != teacher:
                raise state.fail("teacher", "its weights are not those that were saved")
        elif teacher != self.setting.teacher.checksum:
            raise state.fail("teacher", "the training was begun with another teacher")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._losses = state["losses"]
        self._sums = {name: float(value) for name, value in state["sums"].items()}
        for name, each in self.projections.items():
            each.load_state_dict(state["projections"][name])
        if self.setting.own and state["teacher"] != self.setting.teacher.checksum:
            self.setting.teacher.restore(state["weights"])
        if self.cache is not None:
            self.cache.take_up(state["cache"])


def _arguments(inputs: Any) -> Arguments:
    """Return what the loop calls the inputs as arguments of a forward."""
    if isinstance(inputs, Mapping):
        return (), {str(name): value for name, value in inputs.items()}
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) else ((inputs,), {})
