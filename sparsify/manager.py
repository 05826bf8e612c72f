"""The manager: carries a recipe through a training loop.

One optimizer step is a transaction, in this order:

    on_step_begin                 idle → open        (again before the step is over: nothing)
    forward, backward             on_loss, where a modifier needs it
    on_before_optimizer_step      open → ready       unscale, observe, penalise, mask gradients, swap in
    clip, optimizer.step()                           a post-step hook learns whether it happened
    on_step_end                   ready → idle       it happened: commit, clock + 1, new masks if due
                                                     it did not: roll back. Either way: project
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsify._version import __version__
from sparsify.density import Density, measure
from sparsify.errors import HookError, PlanError, SparsityError, StateError, did_you_mean
from sparsify.layers import unwrap
from sparsify.masking.project import project_
from sparsify.masking.store import MaskStore, fingerprint
from sparsify.modifiers.base import Run, Session
from sparsify.optimizers import clip_, innermost
from sparsify.outcome import Outcome
from sparsify.plan import Plan
from sparsify.recipe import Recipe
from sparsify.state import FORMAT, check_state, check_weights

Phase = Literal["new", "idle", "open", "ready", "final"]


class Manager:
    """Applies a recipe to one model and its optimizer. Several can live in one process."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._phase: Phase = "new"
        self._attached: nn.Module | None = None
        self._masks = MaskStore()
        self._runs: list[Run] = []
        self._step = 0
        self._attempts = 0
        self._epoch_attempts: int | None = None
        self._stepped: bool | None = None
        self._unscaled = False

    @classmethod
    def from_recipe(cls, path_or_name: str | Path, **variables: Any) -> Manager:
        """Load a recipe, by path or by name, with values for its variables. Raises RecipeError."""
        return cls(Recipe.load(path_or_name, **variables))

    # ------------------------------------------------------------------ before training

    def attach(self, model: nn.Module) -> Manager:
        """Make the changes of structure that the recipe asks for, before any saved state is loaded; return self.

        `apply` does it where it was not done: only a loop that loads a state into the model first needs it.
        """
        self._expect("attach", "new")
        for stage in self.recipe.resolve().staged():
            for modifier in stage.modifiers:
                modifier.restructure(unwrap(model))
        self._attached = unwrap(model)
        return self

    def again(self) -> Manager:
        """Return a new manager for another training of the same model: its structure is not changed twice."""
        other = Manager(self.recipe)
        other._attached = self._attached
        return other

    def apply(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        epochs: int | None = None,
        scaler: Any = None,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        **bindings: Any,
    ) -> Manager:
        """Plan, attach to the model and its optimizer, and make what is due at step 0; return self.

        `total_steps` (or `steps_per_epoch` and `epochs`) count optimizer steps: with gradient accumulation,
        batches ÷ accumulation. With `scaler`, gradients are unscaled for you in `on_before_optimizer_step`.
        `evaluate(model)` returns metrics; where given, it is asked before and after a modifier cuts the model at once,
        as at the end of gates, and the report says what that did. `bindings` are the objects that the recipe
        declares (`teacher=…`). Raises PlanError; no weight is changed then.
        """
        if self._phase != "new":
            raise HookError("apply() was called before; make a new Manager for another model")
        self._bindings = _checked(self.recipe, bindings)
        if self._attached is not unwrap(model):
            self.attach(model)
        self._plan = Plan.of(
            self.recipe, model, total_steps=total_steps, steps_per_epoch=steps_per_epoch, epochs=epochs
        )
        self._model = unwrap(model)
        self._optimizer = innermost(optimizer)
        self._scaler = scaler
        self._masks = MaskStore()
        self._handles = [
            self._optimizer.register_step_pre_hook(self._before_step),
            self._optimizer.register_step_post_hook(self._after_step),
        ]
        session = Session(self._model, self._optimizer, self._masks, evaluate)
        try:
            self._runs = [plan.start(session) for plan in self._plan.modifiers]
            self._phase = "idle"
            self._update(0)
        except BaseException:
            self._detach()
            self._phase = "new"
            raise
        return self

    @property
    def plan(self) -> Plan:
        """The plan; known from `apply` on (use `Plan.of` to plan without applying)."""
        if self._phase == "new":
            raise HookError("there is no plan before apply(); Plan.of(recipe, model, …) makes one without it")
        return self._plan

    @property
    def step(self) -> int:
        """Completed optimizer steps: the one clock."""
        return self._step

    @property
    def sparsity(self) -> float:
        """The fraction of the targeted weights that is masked now; 0 before the first mask."""
        elements, pruned = self._masks.count(self._plan.targeted()) if self._phase != "new" else (0, 0)
        return pruned / elements if elements else 0.0

    @property
    def target(self) -> float | None:
        """The sparsity that the schedules ask for now; None before the first window, or without a target."""
        known = [value for run in self._runs if (value := run.sparsity(self._step)) is not None]
        return max(known) if known else None

    @property
    def last_update(self) -> int:
        """Completed steps after which the model has the sparsity that was asked for."""
        return max((run.last_update() for run in self._runs), default=0)

    # ------------------------------------------------------------------ the hooks

    def on_epoch_begin(self, epoch: int | None = None) -> None:
        """Optional: begin to count the steps of an epoch."""
        self._expect("on_epoch_begin", "idle")
        if self._epoch_attempts is None or self._epoch_attempts >= (self._plan.steps_per_epoch or 0):
            self._epoch_attempts = 0

    def on_epoch_end(self) -> None:
        """Optional: raise HookError if the epoch had not `steps_per_epoch` optimizer steps."""
        self._expect("on_epoch_end", "idle")
        counted, wanted = self._epoch_attempts, self._plan.steps_per_epoch
        self._epoch_attempts = None
        if counted is not None and wanted is not None and counted != wanted:
            raise HookError(
                f"this epoch had {counted} optimizer steps, but apply() was told steps_per_epoch={wanted}; "
                "count optimizer steps: batches ÷ accumulation, for one process"
            )

    def on_step_begin(self, batch: Any = None) -> None:
        """Call before the first forward of an optimizer step; again before it is over does nothing."""
        self._expect("on_step_begin", "idle", "open", "ready")
        if self._phase != "idle":
            return
        for run in self._runs:
            run.on_step_begin(self._step, batch)
        self._unscaled, self._phase = False, "open"

    def on_loss(self, loss: Tensor, outputs: Any = None, inputs: Any = None) -> Tensor:
        """Call after the forward where the recipe distils; returns the loss to call backward on."""
        self._expect("on_loss", "open")
        for run in self._runs:
            loss = run.on_loss(loss, outputs, inputs)
        return loss

    def on_before_optimizer_step(self) -> None:
        """Call when gradients are complete and reduced, before clipping and `optimizer.step()`."""
        self._expect("on_before_optimizer_step", "open", "ready")
        self._refuse_autocast("on_before_optimizer_step")
        if self._phase == "ready":
            if self._masks.latents:
                raise HookError(_ONCE.format("with latent weights"))
            self._roll_back()
        self._unscale()
        for run in self._runs:
            run.observe()
        for run in self._runs:
            run.penalise()
        self._masks.mask_gradients()
        self._masks.swap_in()
        self._phase = "ready"

    def clip_grad_norm_(self, max_norm: float, **options: Any) -> Tensor:
        """Clip the norm of the masked gradients of the optimizer's parameters; return the norm before.

        Between `on_before_optimizer_step` and `optimizer.step()`, where torch's own function does as well.
        Clipping earlier counts gradients of weights that are not there.
        """
        self._expect("clip_grad_norm_", "ready")
        return clip_(self._optimizer, max_norm, **options)

    def on_step_end(self) -> None:
        """Call after `optimizer.step()`; without an optimizer step since the last call it changes nothing."""
        self._expect("on_step_end", "idle", "open", "ready")
        self._refuse_autocast("on_step_end")
        if self._phase != "ready":
            if self._stepped:
                raise HookError("optimizer.step() ran without on_step_begin() and on_before_optimizer_step() before it")
            return
        if not self._stepped:
            self._roll_back()
            if self._stepped is False or self._unscaled:  # tried, and skipped for infinite gradients
                self._close()
            return
        self._masks.swap_out()
        for run in self._runs:
            run.commit(self._step)
        self._step += 1
        self._close()
        self._update(self._step)

    # ------------------------------------------------------------------ after training

    def finalize(self, directory: str | Path | None = None, *, partial: bool = False) -> Density:
        """Make the last update if only skipped steps kept it from happening, verify, detach; once.

        With `directory`, writes `recipe.yaml` (resolved) and `report.json` there, also when it then
        raises. Returns the density counted in the tensors. Raises SparsityError, with a table, if the
        training ended before the recipe did or a tensor has fewer zeros than asked for. `partial` accepts
        an early end; tensors are then compared with what was asked for by then. The model is sparse, and
        keeps its names, either way.
        """
        self._expect("finalize", "idle", "open", "ready")
        if self._phase != "idle":
            self._roll_back()
        skipped = self._attempts - self._step
        last = self.last_update
        if self._step < last <= self._step + skipped:
            self._masks.swap_in()
            self._update(last)
        self._masks.project()
        self._detach()
        self._phase = "final"
        outcome = Outcome(
            plan=self._plan,
            density=measure(self._model, self._plan.targeted()),
            completed=self._step,
            skipped=skipped,
            last_update=last,
            partial=partial,
            short=[shortfall for run in self._runs for shortfall in run.verify(partial=partial)],
            found={run.key: found for run in self._runs if (found := run.report())},
        )
        if directory is not None:
            outcome.write(Path(directory))
        if outcome.complaint():
            raise SparsityError(outcome.complaint())
        return outcome.density

    def detach(self) -> None:
        """End at any phase: roll back an open step, show the model under its masks, take the hooks off the optimizer.

        For a training that broke off. Called again, or before `apply`, it does nothing.
        """
        if self._phase in ("new", "final"):
            return
        if self._phase != "idle":
            self._roll_back()
        self._masks.project()
        self._detach()
        self._phase = "final"

    @torch.no_grad()
    def project(self, model: nn.Module) -> None:
        """Write the masks in force into another model of the same names, such as an average of weights."""
        self._expect("project", "idle", "open", "final")
        named = dict(unwrap(model).named_parameters(remove_duplicate=False))
        for _, weight, mask in self._masks:
            name = weight.parameter_name
            if name not in named:
                raise StateError(f"the model to project has no parameter {name!r}{did_you_mean(name, named)}")
            project_(weight.region(named[name]), mask.to(named[name].device))

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on bit by bit: plain data and tensors, loadable `weights_only`.

        Save it beside the model's and the optimizer's state, between two optimizer steps.
        """
        self._expect("state_dict", "idle", "open", "final")
        resolved = self._plan.recipe
        return {
            "format": FORMAT,
            "sparsify": __version__,
            "recipe": resolved.canonical(),
            "sha256": resolved.sha256,
            "clock": {
                "step": self._step,
                "attempts": self._attempts,
                "epoch_attempts": self._epoch_attempts,
                "total_steps": self._plan.total_steps,
                "steps_per_epoch": self._plan.steps_per_epoch,
            },
            "stage": self._plan.stage_at(self._step),
            "modifiers": {run.key: run.state_dict() for run in self._runs},
            "masks": self._masks.state_dict(),
            "weights": {name: fingerprint(weight.tensor) for name, weight, _ in self._masks},
        }

    def load_state_dict(
        self, state: Mapping[str, Any], *, allow_changed_recipe: bool = False, verify_weights: bool = True
    ) -> None:
        """Go on from a state, after `apply` and after the model's and the optimizer's states are loaded.

        Raises StateError, and changes nothing, for a state of another recipe (with a diff), of another
        length of training, or of other weights. `allow_changed_recipe` takes the masks and the clock into
        the new recipe; `verify_weights=False` skips the comparison with the model's weights.
        """
        self._expect("load_state_dict", "idle")
        check_state(state, self._plan, allow_changed_recipe=allow_changed_recipe)
        known = {weight.name: weight for plan in self._plan.modifiers for weight in (*plan.weights, *plan.followers)}
        masks = MaskStore()
        masks.load_state_dict(state["masks"], known)
        if verify_weights:
            check_weights(state["weights"], masks)
        for name, weight, mask in masks:
            self._masks.set(weight, mask, masks.owner(name))
        clock = state["clock"]
        self._step, self._attempts = int(clock["step"]), int(clock["attempts"])
        self._epoch_attempts = clock["epoch_attempts"]
        for run in self._runs:
            if run.key in state["modifiers"]:
                run.load_state_dict(state["modifiers"][run.key])
        self._masks.project()

    # ------------------------------------------------------------------ inside

    def _expect(self, hook: str, *phases: Phase) -> None:
        if self._phase in phases:
            return
        raise HookError(f"{hook}() {_WHY[self._phase]}")

    def _refuse_autocast(self, hook: str) -> None:
        kinds = {"cpu"} | {parameter.device.type for parameter in self._model.parameters()} - {"meta"}
        if any(torch.is_autocast_enabled(kind) for kind in kinds):
            raise HookError(f"{hook}() inside an autocast region: its cache would hide the change; leave it first")

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _before_step(self, optimizer: Any, arguments: Any, options: Any) -> None:
        """Refuse a closure (L-BFGS, SAM): it would see latent weights, and its gradients would not be masked."""
        given = any(map(callable, (*arguments, *options.values())))
        if given and self._phase == "ready" and self._masks.latents:
            raise HookError("optimizer.step() got a closure, which would take latent weights for those of the model")

    def _after_step(self, optimizer: Any, arguments: Any, options: Any) -> None:
        """Learn that the step happened; a fused optimizer is called for a skipped step too, and says so here."""
        found = getattr(optimizer, "found_inf", None)
        happened = not (isinstance(found, Tensor) and bool(found.item()))
        self._stepped = bool(self._stepped) or happened

    def _unscale(self) -> None:
        if self._scaler is None or not self._scaler.is_enabled():
            return
        if self._unscaled:
            raise HookError(_ONCE.format("with a GradScaler"))
        try:
            self._scaler.unscale_(self._optimizer)
        except RuntimeError as error:
            if "already been called" not in str(error):
                raise
        self._unscaled = True

    def _close(self) -> None:
        """End the transaction: one more optimizer step was tried."""
        self._phase, self._stepped = "idle", None
        self._attempts += 1
        if self._epoch_attempts is not None:
            self._epoch_attempts += 1

    def _roll_back(self) -> None:
        for run in self._runs:
            run.rollback()
        self._masks.project()
        self._phase = "open"

    def _update(self, step: int) -> None:
        """Apply the masks in force, so that momentum revives nothing; then make what is due, and apply that.

        Latent weights are alive beyond their masks: they are ranked as they are, and masked once, afterwards.
        """
        self._masks.project_plain()
        changed = [run.update(step) for run in self._runs]  # all of them, in file order
        if any(changed):
            self._masks.project_plain()
        self._masks.project_latent()


_ONCE = "{}, on_before_optimizer_step() is called once per optimizer step, right before it"

_WHY: dict[Phase, str] = {
    "new": "before apply()",
    "idle": "outside a step: call on_step_begin() first",
    "open": "before on_before_optimizer_step()",
    "ready": "between on_before_optimizer_step() and on_step_end()",
    "final": "after finalize()",
}


def _checked(recipe: Recipe, bindings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bindings, all declared and all required ones there. Raises PlanError."""
    for name in bindings:
        if name not in recipe.bindings:
            hint = did_you_mean(name, recipe.bindings) or " (the recipe declares no bindings)"
            raise PlanError(f"apply() got an unknown binding {name!r}{hint}")
    for name, binding in recipe.bindings.items():
        if binding.required and bindings.get(name) is None:
            wanted = f" ({binding.description})" if binding.description else ""
            raise PlanError(f"the recipe needs {name!r}{wanted}: give it as apply(…, {name}=…)")
    return dict(bindings)
