"""A plan at work on a model, step by step: what the manager's hooks do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsify.agreement import Agreement
from sparsify.errors import HookError
from sparsify.layers import Places
from sparsify.masking.store import MaskStore
from sparsify.modifiers.contract import Run, Session
from sparsify.optimizers import accumulating, parameters_of
from sparsify.plan import Plan
from sparsify.transaction import PATIENCE, Transaction


class Loop:
    """Runs, masks and the transaction of one training."""

    def __init__(self, plan: Plan, session: Session, given: Sequence[Any], transaction: Transaction) -> None:
        self.plan, self.session, self.given, self.transaction = plan, session, given, transaction
        self.masks: MaskStore = session.masks
        self.runs = self.new_runs()
        self.without: dict[str, int] = {}
        """By modifier that needs gradients: steps in a row without any."""
        self.interrupted = False
        """Whether an update was broken off (Ctrl-C, out of memory), so that it must be made again before anything."""
        self.with_gradients: set[str] = set()
        """Modifiers that needed gradients, and have found some."""
        planned = [weight for modifier in plan.modifiers for weight in (*modifier.masked, *modifier.touches)]
        self._planned = list({id(weight.parameter): weight for weight in planned}.values())
        held = {id(parameter) for parameter in parameters_of(session.optimizers)}
        self._trained = [weight for weight in self._planned if id(weight.parameter) in held]
        self._places = Places(session.model, self._planned)
        self._agreement = Agreement(self._planned, self.masks)

    def new_runs(self) -> list[Run]:
        """Return new runs of the plan's modifiers."""
        modifiers = [modifier for stage in self.plan.recipe.staged() for modifier in stage.modifiers]
        pairs = zip(modifiers, self.plan.modifiers, strict=True)
        return [modifier.make_run(plan, self.session) for modifier, plan in pairs]

    @property
    def step(self) -> int:
        """Completed optimizer steps."""
        return self.transaction.clock.step

    # ------------------------------------------------------------------ the hooks

    def begin(self, batch: Any) -> None:
        """Begin a step, unless one is under way."""
        self._make_up()
        self._refuse_strays()
        self.refuse_replaced()
        if self.transaction.phase == "ready":
            if self.transaction.stepped:
                self.complete()
                raise HookError("on_step_end() was not called after optimizer.step(): evaluation saw unmasked weights")
            if self.transaction.moved:
                self._refuse_second_run()
            self._roll_back()
        if self.transaction.phase == "open" and not self.transaction.paused:
            return
        if self.transaction.phase != "open":
            self.transaction.open()
        self.transaction.paused = False
        try:
            for run in self.runs:
                run.on_step_begin(self.step, batch)
            self.masks.refresh()
        except BaseException:
            self.abandon()
            raise

    def loss(self, loss: Tensor, outputs: Any, inputs: Any) -> Tensor:
        """Return the loss with the terms of all runs."""
        for run in self.runs:
            loss = run.on_loss(self.step, loss, outputs, inputs)
        return loss

    def before(self) -> None:
        """Make everything ready for the optimizers."""
        transaction = self.transaction
        self._refuse_strays()
        self._refuse_autocast("on_before_optimizer_step")
        if accumulating(self.given):
            return
        self.refuse_replaced()
        if transaction.phase == "ready":
            self._once_more()
        if transaction.paused and any(run.samples(self.step) for run in self.runs):
            raise HookError("no optimizer stepped since on_step_begin(): call it again before the next forward")
        readers = [run for run in self.runs if run.needs_gradients(self.step)]
        weights = [weight for run in readers for weight in run.plan.touches]
        if transaction.same_gradients(weight.parameter.grad for weight in weights):
            raise HookError(_ONCE)
        try:
            self._follow_parameters()
            written = self.masks.notice()
            transaction.unscale()
            transaction.observed(weight.parameter.grad for weight in weights)
            self._count_gradients(readers)
            for run in self.runs:
                run.prepare(self.step)
            for run in self.runs:
                run.observe(self.step)
            for run in self.runs:
                run.penalise(self.step)
            transaction.observed(weight.parameter.grad for weight in weights)  # some may be dropped now
            self.masks.mask_gradients()
            self.masks.swap_in()
        except BaseException:
            self._roll_back()
            raise
        transaction.ready([weight.parameter for weight in self._planned], written=written)

    def _once_more(self) -> None:
        """`on_before_optimizer_step` is called again in one transaction: fine where no optimizer stepped."""
        if self.transaction.stepped:
            self.complete()
            raise HookError("on_step_end() was not called after optimizer.step()")
        self._refuse_second_run()
        self._roll_back()

    def _refuse_second_run(self) -> None:
        """Raise HookError where an optimizer runs its closure again (L-BFGS), over weights that it has moved."""
        if self.transaction.inside_closure and self.refuses_closures():
            self.transaction.leave_closure()
            raise HookError("a closure was run twice in one optimizer.step(), the second time over latent weights")

    def end(self) -> None:
        """End the step: completed, skipped, or still open where nothing happened."""
        transaction = self.transaction
        self._refuse_strays()
        self._refuse_autocast("on_step_end")
        if transaction.phase != "ready":
            return
        if transaction.stepped:
            if wrong := self.complete():
                raise HookError(wrong)
            return
        skipped = transaction.was_skipped()
        wrong = None if skipped else transaction.count_missing(written=self.masks.written())
        self._roll_back()
        if skipped:
            transaction.close(completed=False)
        if wrong is not None:
            self.abandon()
            raise HookError(wrong)

    # ------------------------------------------------------------------ what follows

    def complete(self) -> str | None:
        """The optimizers stepped: take over what they did, count it, make what is due; return what was wrong."""
        wrong = self.transaction.complaint()
        self.masks.swap_out()
        try:
            skipped = self.transaction.skipped_parameters()
            for run in self.runs:
                run.commit(self.step, skipped)
        finally:
            self.interrupted = True
            self.transaction.close(completed=True)
            self.update(self.step)
        silent = next((key for key, steps in self.without.items() if steps >= PATIENCE), None)
        return f"{silent} {_SILENT}" if wrong is None and silent is not None else wrong

    def update(self, step: int) -> None:
        """Make what is due when `step` steps are completed, in file order, each seeing the model as it is by then.

        The masks in force are applied first, so that momentum revives nothing. Latent weights that are about to be
        ranked wait for their new masks. An error of one modifier leaves the model under masks, and the others go on.
        """
        due = [run.due(step) for run in self.runs]
        waiting = [self._latent_names(run) if now else set() for run, now in zip(self.runs, due, strict=True)]
        errors: list[Exception] = []
        self.interrupted = True
        try:
            self.masks.project(skip=set().union(*waiting))
            for index, run in enumerate(self.runs):
                try:
                    if run.plan.stage.begin == step:
                        run.enter(step)
                    run.update(step)
                    if run.plan.stage.end == step:
                        run.leave(step)
                except Exception as error:
                    errors.append(error)
                self.masks.refresh(skip=set().union(*waiting[index + 1 :]))
            self.masks.refresh()
        except BaseException:
            self.masks.project()
            raise
        self.interrupted = False
        if errors:
            raise errors[0]
        if any(due):
            self._agreement.after_update(step, last=step >= max(run.last_update() for run in self.runs))

    def _latent_names(self, run: Run) -> set[str]:
        return {weight.name for weight in run.plan.masked} if run.plan.latent else set()

    def _roll_back(self) -> None:
        """No optimizer stepped: undo what was made ready; the step is still open."""
        for run in self.runs:
            run.rollback()
        self.masks.project()
        self.transaction.reopen()

    def pause(self) -> None:
        """Have the model be seen as outside of the step that is open, which goes on with the next `on_step_begin`."""
        if self.transaction.phase == "open":
            for run in self.runs:
                run.pause()
            self.masks.project()
            self.transaction.reopen()

    def abandon(self) -> None:
        """End the step as if it had never begun."""
        for run in self.runs:
            run.rollback()
        self.masks.project()
        self.transaction.abandon()

    def detach(self) -> None:
        """End at any time: undo the step that is under way, and leave the model under its masks."""
        if self.transaction.phase == "ready" and self.transaction.stepped:
            self.masks.swap_out()
        self.abandon()
        self.transaction.detach("detached")

    def settle(self) -> None:
        """End a step, or an update, that an exception or a forgotten hook has left under way."""
        self._make_up()
        if self.transaction.phase == "ready" and self.transaction.stepped:
            self.complete()
        elif self.transaction.phase in ("open", "ready"):
            self.abandon()

    def _make_up(self) -> None:
        """Make an update again that was broken off."""
        if self.interrupted:
            self.update(self.step)

    def show(self, *, ours: bool) -> None:
        """Have the model seen under its masks after its weights were written to."""
        self.interrupted = True
        self.masks.notice(ours=ours)
        self.masks.project()
        self.interrupted = False

    def refuses_closures(self) -> bool:
        """Whether gradients that are made within the optimizer's step would not be ours."""
        step = self.step
        return self.masks.latents > 0 or any(r.needs_gradients(step) or r.alters_gradients(step) for r in self.runs)

    def _refuse_strays(self) -> None:
        if stray := self.transaction.take_stray():
            raise HookError(stray)

    def refuse_replaced(self) -> None:
        """Raise HookError where a weight is not in the model any more, or has another shape."""
        if wrong := self._places.wrong():
            raise HookError(f"{wrong}: change the model before apply()")

    def _refuse_autocast(self, hook: str) -> None:
        kinds = {"cpu"} | {weight.parameter.device.type for weight in self._planned} - {"meta"}
        if any(torch.is_autocast_enabled(kind) for kind in kinds):
            raise HookError(
                f"{hook}() was called inside an autocast region, whose cache would hide the change: call it outside"
            )

    def _follow_parameters(self) -> None:
        """Raise HookError where a parameter was replaced since `apply`, so that the optimizers train another tensor."""
        held = {id(parameter) for parameter in parameters_of(self.transaction.optimizers)}
        for weight in self._trained:
            if id(weight.parameter) not in held:
                raise HookError(
                    f"the parameter {weight.parameter_name} was replaced after apply() (load_state_dict(assign=True), "
                    "a wrapper), and the optimizer does not hold the new one: make the optimizer, and call apply(), "
                    "after that"
                )

    def _count_gradients(self, readers: Iterable[Run]) -> None:
        """Count the steps in a row in which a modifier that needs gradients finds none."""
        readers = list(readers)
        others = {key: steps for key, steps in self.without.items() if key not in {run.key for run in readers}}
        silent = {run.key for run in readers if all(weight.parameter.grad is None for weight in run.plan.touches)}
        self.without = others | {key: self.without.get(key, 0) + 1 for key in silent}
        self.with_gradients |= {run.key for run in readers} - silent


_ONCE = (
    "on_before_optimizer_step() was called again over the same gradients without an optimizer step between: with "
    "gradient accumulation, call it once for each optimizer step, right before it (and on_step_end() after it)"
)
_SILENT = (
    f"needs the gradients of its weights, and found none in {PATIENCE} steps: call on_before_optimizer_step() after "
    "backward() and before they are set to None; an optimizer that steps within backward() is not supported"
)
