"""The manager: carries a recipe through a training loop.

One optimizer step is a transaction (see `transaction`), in this order:

    on_step_begin                 gates are sampled      (again before the step is over: nothing)
    forward, backward             on_loss, where a modifier needs it
    on_before_optimizer_step      unscale, observe, penalise, mask gradients, swap latent weights in
    clip, optimizer.step()        hooks on the optimizers learn whether it happened
    on_step_end                   it happened: commit, clock + 1, new masks if due
                                  it did not: roll back. Either way the model is seen under its masks
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.applied import remember, take_over
from sparsify.attaching import Attached, attach, restructures, settled
from sparsify.density import Density, measure
from sparsify.errors import HookError, StateError
from sparsify.guard import watch
from sparsify.layers import unwrap
from sparsify.loop import Loop
from sparsify.masking.store import MaskStore
from sparsify.modifiers.contract import Run, Session
from sparsify.modifiers.step_rates import rate_in_force
from sparsify.optimizers import clip_, innermost, several
from sparsify.outcome import Outcome, revived
from sparsify.plan import Plan
from sparsify.preflight import check_bindings, check_optimizers, check_weights, notes
from sparsify.recipe import Recipe
from sparsify.state import changes_of, read_state, state_of
from sparsify.target import sparsity_wanted
from sparsify.transaction import AT_WORK, Transaction
from sparsify.viewing import project_into, sparse_copy


class Manager:
    """Applies a recipe to one model and its optimizers. Several can live in one process."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._transaction = Transaction()
        self._attached: Attached | None = None
        self._masks = MaskStore()

    @classmethod
    def from_recipe(cls, path_or_name: str | Path, **variables: Any) -> Manager:
        """Load a recipe, by path or by name, with values for its variables. Raises RecipeError."""
        return cls(Recipe.load(path_or_name, **variables))

    # ------------------------------------------------------------------ before training

    def attach(self, model: nn.Module, *, state: Mapping[str, Any] | None = None, **bindings: Any) -> Manager:
        """Make the changes of structure that the recipe asks for, before any saved state is loaded; return self.

        `apply` does it where it was not done: only a loop that compiles or wraps the model, or loads a state into it,
        needs it first. Where data decide which layers stay, `bindings` has them (`calibration=…`); or `state`, a saved
        state of this manager's training, says what was decided, and nothing is measured. Again on the same model it
        does nothing. Raises PlanError, and StateError for such a state; the model is not changed then.
        """
        self._transaction.expect("attach", "new")
        if self._attached is None or self._attached.model is not unwrap(model):
            earlier = changes_of(state) if state is not None else {}
            self._attached = attach(self.recipe, model, earlier, bindings)
        return self

    def again(self) -> Manager:
        """Return a new manager for another training of the same model: its structure is not changed twice."""
        other = Manager(self.recipe)
        other._attached = self._attached
        return other

    def apply(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        epochs: int | None = None,
        scaler: Any = None,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        **bindings: Any,
    ) -> Manager:
        """Plan, attach to the model and its optimizers, and make what is due at step 0; return self.

        Several optimizers (Muon beside AdamW) are given as a list, and step in one transaction. `total_steps` (or
        `steps_per_epoch` and `epochs`) count optimizer steps: with gradient accumulation, batches ÷ accumulation. With
        `scaler`, gradients are unscaled for you in `on_before_optimizer_step`. `evaluate(model)` returns metrics; where
        given, it is asked before and after a modifier cuts the model at once, as at the end of gates, and the report
        says what that did. `bindings` are the objects that the recipe declares (`teacher=…`).

        Parameters of layers that are dropped leave the optimizers. A manager that was applied to the same weights
        before, and not finalized, is detached. Raises PlanError; no weight is changed then.
        """
        if self._transaction.phase != "new":
            raise HookError("apply() was called before; make a new Manager for another model")
        given = several(optimizer)
        optimizers = [innermost(each) for each in given]
        bindings = check_bindings(self.recipe, bindings, settled(self.recipe, model))
        clock = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch, "epochs": epochs}
        inputs = bindings.get("example_inputs")
        if self.restructures:
            Plan.of(self.recipe, model, **clock, example_inputs=inputs)  # what is wrong is said before anything changes
        attached = self.attach(model, **bindings)._attached
        assert attached is not None
        attached.release(optimizers)
        plan = Plan.of(self.recipe, model, **clock, example_inputs=inputs)
        check_weights(plan)
        check_optimizers(unwrap(model), optimizers)
        self._plan = replace(plan, notes=(*plan.notes, *notes(plan, unwrap(model), optimizers), *attached.notes))
        self._model, self._masks = unwrap(model), MaskStore()
        transaction = self._transaction
        session = Session(
            self._model,
            optimizers,
            self._masks,
            evaluate,
            bindings,
            snapshots=attached.snapshots,
            keep=transaction.keep,
            step=lambda: transaction.clock.step,
            scale=transaction.scale,
        )
        try:
            loop = self._loop = Loop(self._plan, session, given, transaction)
            take_over(self._model, plan)
            transaction.attach(
                optimizers, scaler, refuses_closures=loop.refuses_closures, repair=lambda: loop.show(ours=True)
            )
            loop.update(0)
        except BaseException:
            transaction.detach("new")
            raise
        transaction.keep(watch(self._model, loop))
        remember(self._model, self)
        return self

    @property
    def loss_modifiers(self) -> list[str]:
        """The keys of the modifiers for which `on_loss` must be called."""
        return [key for key, modifier in self.recipe.resolve().keyed() if modifier.changes_loss()]

    @property
    def restructures(self) -> bool:
        """Whether the recipe changes the structure of the model, so that `attach` must come before it is wrapped."""
        return restructures(self.recipe)

    @property
    def _runs(self) -> list[Run]:
        return self._loop.runs if self._transaction.phase != "new" else []

    @property
    def plan(self) -> Plan:
        """The plan; known from `apply` on (use `Plan.of` to plan without applying)."""
        if self._transaction.phase == "new":
            raise HookError("there is no plan before apply(); Plan.of(recipe, model, …) makes one without it")
        return self._plan

    @property
    def model(self) -> nn.Module:
        """The model that was given to `apply`, without wrappers such as DDP."""
        if self._transaction.phase == "new":
            raise HookError("there is no model before apply()")
        return self._model

    @property
    def step(self) -> int:
        """Completed optimizer steps: the one clock."""
        return self._transaction.clock.step

    @property
    def sparsity(self) -> float:
        """The fraction of the targeted weights that is masked now; 0 before the first mask."""
        targeted = self._plan.targeted() if self._transaction.phase != "new" else []
        elements = sum(weight.geometry.elements for weight in targeted)
        return self._masks.pruned(targeted) / elements if elements else 0.0

    @property
    def target(self) -> float | None:
        """The sparsity asked for now, of all targeted weights; None before the first window, or without a target.

        Weights that have no target now count as they are.
        """
        if self._transaction.phase == "new":
            return None
        wanted = (each for run in reversed(self._runs) for each in run.wanted(self.step))
        return sparsity_wanted(wanted, self._masks, self._plan.targeted())

    @property
    def learning_rate(self) -> float | None:
        """The learning rate that the first parameter group had in the last step, where the recipe sets it.

        None where it does not: then it is your optimizer's own.
        """
        optimizers = self._transaction.optimizers
        return rate_in_force(optimizers[0]) if optimizers else None

    @property
    def last_update(self) -> int:
        """Completed steps after which the model has the sparsity that was asked for."""
        return max((run.last_update() for run in self._runs), default=0)

    # ------------------------------------------------------------------ the hooks

    def on_epoch_begin(self, epoch: int | None = None) -> None:
        """Optional: begin to count the steps of an epoch."""
        self._transaction.expect("on_epoch_begin", "idle", "open", "ready")
        self._loop.settle()
        clock = self._transaction.clock
        if clock.epoch_attempts is None or clock.epoch_attempts >= (self._plan.steps_per_epoch or 0):
            clock.epoch_attempts = 0

    def on_epoch_end(self) -> None:
        """Optional: raise HookError if the epoch had not `steps_per_epoch` optimizer steps."""
        self._transaction.expect("on_epoch_end", "idle", "open", "ready")
        self._loop.settle()
        clock, wanted = self._transaction.clock, self._plan.steps_per_epoch
        counted, clock.epoch_attempts = clock.epoch_attempts, None
        if counted is not None and wanted is not None and counted != wanted:
            raise HookError(
                f"this epoch had {counted} optimizer steps, but apply() was told steps_per_epoch={wanted}; "
                "count optimizer steps: batches ÷ accumulation, for one process"
            )

    def on_step_begin(self, batch: Any = None) -> None:
        """Call before the first forward of an optimizer step; again before it is over does nothing."""
        self._transaction.expect("on_step_begin", "idle", "open", "ready")
        self._loop.begin(batch)

    def on_loss(self, loss: Tensor, outputs: Any = None, inputs: Any = None) -> Tensor:
        """Call after the forward where the recipe distils; returns the loss to call backward on.

        Outside of a step, as in an evaluation, it returns the loss as it is.
        """
        self._transaction.expect("on_loss", "idle", "open", "final", "detached")
        return self._loop.loss(loss, outputs, inputs) if self._transaction.phase == "open" else loss

    def on_before_optimizer_step(self) -> None:
        """Call when gradients are complete and reduced, before clipping and `optimizer.step()`."""
        self._transaction.expect("on_before_optimizer_step", "open", "ready")
        self._loop.before()

    def clip_grad_norm_(self, max_norm: float, **options: Any) -> Tensor:
        """Clip the norm of the masked gradients of the optimizers' parameters; return the norm before.

        Between `on_before_optimizer_step` and `optimizer.step()`, where torch's own function does as well.
        Clipping earlier counts gradients of weights that are not there.
        """
        self._transaction.expect("clip_grad_norm_", "ready")
        return clip_(self._transaction.optimizers, max_norm, **options)

    def on_step_end(self) -> None:
        """Call after `optimizer.step()`; without an optimizer step since the last call it changes nothing."""
        self._transaction.expect("on_step_end", "idle", "open", "ready")
        self._loop.end()

    # ------------------------------------------------------------------ after training

    def finalize(self, directory: str | Path | None = None, *, partial: bool = False) -> Density:
        """Make the last updates if only skipped steps kept them from happening, verify, detach; once.

        With `directory`, writes `recipe.yaml` (resolved) and `report.json` there, also when it then
        raises. Returns the density counted in the tensors. Raises SparsityError, with a table, if the
        training ended before the recipe did, a tensor has fewer zeros than asked for or values that are not finite, or
        weights that were pruned are not zero any more; after an error it can be called again. `partial` accepts
        an early end; tensors are then compared with what was asked for by then. The model is sparse, and
        keeps its names, either way.
        """
        transaction = self._transaction
        transaction.expect("finalize", "idle", "open", "ready")
        self._loop.refuse_replaced()
        self._loop.settle()
        back = revived(self._masks)
        if not back:
            self._masks.notice()
            skipped = transaction.clock.attempts - self.step
            if self.step < self.last_update <= self.step + skipped:
                for step in range(self.step + 1, self.last_update + 1):
                    self._loop.update(step)
            self._masks.project()
        outcome = Outcome(
            plan=self._plan,
            density=measure(self._model, self._plan.targeted()),
            completed=self.step,
            skipped=transaction.clock.attempts - self.step,
            last_update=self.last_update,
            partial=partial,
            short=[shortfall for run in self._runs for shortfall in run.verify(partial=partial)],
            revived=back,
            without_gradients=sorted(set(self._loop.without) - self._loop.with_gradients),
            found={run.key: found for run in self._runs if (found := run.report())},
        )
        if directory is not None:
            outcome.write(Path(directory))
        outcome.check()
        transaction.detach("final")
        return outcome.density

    def detach(self) -> None:
        """End at any time: a step that is under way is undone, the model is left under its masks, nothing is watched.

        For a training that broke off and is not continued with this manager. Calling it again does nothing.
        """
        if self._transaction.phase in AT_WORK:
            self._loop.detach()

    def sparse_copy(self) -> AbstractContextManager[None]:
        """Within it the model is the sparse one that it is about to become, where a method trains dense weights.

        Those methods (`masking: admm`) keep a sparse copy until their window ends; evaluate it, and save it, in here.
        Afterwards the dense weights are back, bit by bit. Elsewhere the model is sparse anyway, and nothing happens.
        Between two micro-batches, call `on_step_begin` again before the next. Raises HookError within a step that is
        about to be made.
        """
        self._transaction.expect("sparse_copy", "idle", "open", "final", "detached")
        if self._transaction.phase == "open":
            self._loop.pause()
        return sparse_copy(self._transaction, self._runs if self._transaction.phase in AT_WORK else [])

    def project(self, model: nn.Module) -> None:
        """Write the masks in force into another model of the same names, such as an average of weights.

        Modules that a `substitute` has put in place compute what those of the manager's model do. Raises StateError,
        and changes nothing, for a model that lacks a masked parameter, has one of another shape, or was copied before
        modules were put there.
        """
        self._transaction.expect("project", "idle", "open", "final", "detached")
        if not isinstance(model, nn.Module):
            raise StateError(f"project() takes a model, got {type(model).__name__}")
        project_into(model, self._masks, self._runs)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on bit by bit: plain data and tensors, loadable `weights_only`.

        Save it beside the model's and the optimizer's state, between two optimizer steps. A step that an exception
        broke off is ended: it is completed if the optimizer stepped, else undone.
        """
        self._transaction.expect("state_dict", "idle", "open", "ready", "final")
        if self._transaction.phase != "final":
            self._loop.refuse_replaced()
            self._loop.settle()
            self._masks.notice()
        return state_of(self._plan, self._transaction.clock, self._masks, self._runs)

    def load_state_dict(
        self, state: Mapping[str, Any], *, allow_changed_recipe: bool = False, verify_weights: bool = True
    ) -> None:
        """Go on from a state, after `apply` and after the model's and the optimizer's states are loaded.

        It replaces everything: masks, latent weights, clock. Raises StateError, and changes nothing, for a state of
        another recipe (with a diff), of another length of training, of other weights, or with any wrong value.
        `allow_changed_recipe` takes masks and clock into another recipe or length, and what modifiers have learned
        where it still fits; those that begin anew are named in a warning. `verify_weights=False` skips the comparison
        with the model's weights.
        """
        transaction = self._transaction
        transaction.expect("load_state_dict", "idle", "open", "ready")
        runs = self._loop.new_runs()
        saved = read_state(
            state, self._plan, runs, allow_changed_recipe=allow_changed_recipe, verify_weights=verify_weights
        )
        if transaction.phase != "idle":
            self._transaction.abandon()
        self._masks.replace(saved.masks)
        self._masks.project()
        transaction.clock, self._loop.without, self._loop.runs = saved.clock, {}, runs
        for run in runs:
            if run.key in saved.modifiers:
                run.load_state_dict(saved.modifiers[run.key])
            elif run.plan.stage.begin <= self.step:
                run.enter(self.step)
        self._masks.refresh()
        self._loop.interrupted = False
