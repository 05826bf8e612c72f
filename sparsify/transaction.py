"""One optimizer step of the user's loop as a transaction: its phase, the clock, and what really happened.

    new ── apply ──▶ idle ── on_step_begin ──▶ open ── on_before_optimizer_step ──▶ ready ── on_step_end ──▶ idle
                                                 ▲                                    │
                                                 └──────── no optimizer stepped ──────┘

Hooks on the optimizers tell whether they stepped. What loops do otherwise than this is noticed here; what follows from
it for the model is the manager's.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sparsify.errors import HookError
from sparsify.optimizers import parameters_of

Phase = Literal["new", "idle", "open", "ready", "shown", "final", "detached"]

PATIENCE = 8
"""Transactions in a row without a step of our optimizers, though gradients were finite, before it is an error."""

AT_WORK: tuple[Phase, ...] = ("idle", "open", "ready")
"""Between `apply` and the end."""

_WHERE: dict[Phase, str] = {
    "new": "before apply()",
    "idle": "outside a step: call on_step_begin() first",
    "open": "before on_before_optimizer_step()",
    "ready": "between on_before_optimizer_step() and on_step_end()",
    "shown": "within sparse_copy(): leave it first",
    "final": "after finalize()",
    "detached": "after detach(), or after another manager was applied to the same weights",
}


@dataclass
class Clock:
    """Completed optimizer steps, and attempts: steps and those that were skipped."""

    step: int = 0
    attempts: int = 0
    epoch_attempts: int | None = None
    """Attempts in the epoch that is under way; None outside of one."""

    def count(self, *, completed: bool) -> None:
        """Count an attempt."""
        self.attempts += 1
        self.step += completed
        if self.epoch_attempts is not None:
            self.epoch_attempts += 1


class Transaction:
    """The step that is under way."""

    def __init__(self) -> None:
        self.phase: Phase = "new"
        self.paused = False
        """Whether what holds for one step only has been taken out of the model, though the step is open."""
        self.clock = Clock()
        self.optimizers: tuple[torch.optim.Optimizer, ...] = ()
        self._scaler: Any = None
        self._handles: list[Any] = []
        self._steps: list[int] = []
        """How often each optimizer stepped since `ready`."""
        self._skips: list[bool] = []
        """Whether each was called and told to skip (fused ones are)."""
        self._infinite: list[Any] = []
        """What the scaler found in the gradients of each optimizer, by device."""
        self._stray = False
        self._inside = False
        self._entered: set[int] = set()
        """Optimizers whose `step` was called and has not come back: of calls within each other, the first counts."""
        self._unscaled = False
        self._observed: weakref.ref[Tensor] | None = None
        """A gradient that was observed in this transaction already."""
        self._watched: Sequence[Tensor] = ()
        self._versions = (0, 0)
        self._made: Sequence[tuple[Tensor, weakref.ref[Tensor]]] = ()
        """The gradients that were there when it was made ready, by parameter."""
        self._written = False
        """Whether somebody had written to the weights between two hooks before."""
        self._without_gradient: Sequence[Tensor] = ()
        """What had no gradient when it was made ready."""
        self._late = False
        """Whether some of it has one when an optimizer steps."""
        self._missed = 0.0
        self._refuses_closures: Callable[[], bool] = lambda: False
        self._repair: Callable[[], None] = lambda: None

    # ------------------------------------------------------------------ before and after the training

    def attach(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        scaler: Any,
        *,
        refuses_closures: Callable[[], bool],
        repair: Callable[[], None],
    ) -> None:
        """Watch the optimizers. `repair` is called after a step outside of a transaction."""
        self.optimizers, self._scaler = tuple(optimizers), scaler
        self._refuses_closures, self._repair = refuses_closures, repair
        self._forget()
        for index, optimizer in enumerate(optimizers):
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))
            self._handles.append(optimizer.register_step_post_hook(self._after(index)))
        self.phase = "idle"

    def keep(self, handle: Any) -> None:
        """Remove another hook, too, when we watch no longer."""
        self._handles.append(handle)

    def detach(self, phase: Phase) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles, self.phase = [], phase

    def expect(self, hook: str, *phases: Phase) -> None:
        """Raise HookError unless we are in one of these phases."""
        if self.phase not in phases:
            raise HookError(f"{hook}() {_WHERE[self.phase]}")

    # ------------------------------------------------------------------ the way of a step

    def open(self) -> None:
        """Begin."""
        self._forget()
        self.phase = "open"

    def ready(self, watched: Sequence[Tensor], *, written: bool = False) -> None:
        """Gradients are done with: the optimizers may step now. `watched` are parameters that they would change.

        `written` says that somebody else had changed them since they were shown.
        """
        self._watched, self._versions, self._written = watched, _versions(watched), written
        self._made = [(each, weakref.ref(each.grad)) for each in watched if each.grad is not None]
        self._without_gradient, self._late = [each for each in watched if each.grad is None], False
        self._steps, self._skips = [0] * len(self.optimizers), [False] * len(self.optimizers)
        self.phase = "ready"

    def observed(self, gradients: Iterable[Tensor | None]) -> None:
        """Note that these gradients are being observed, and cannot be a second time."""
        found = next((gradient for gradient in gradients if gradient is not None), None)
        self._observed = None if found is None else weakref.ref(found)

    def same_gradients(self, gradients: Iterable[Tensor | None]) -> bool:
        """Whether some of these gradients were observed before in this transaction."""
        old = self._observed() if self._observed is not None else None
        return old is not None and any(gradient is old for gradient in gradients)

    def reopen(self) -> None:
        """No optimizer stepped: what was made ready is undone; `on_step_begin` must come before the next forward."""
        self.phase, self.paused = "open", True

    def close(self, *, completed: bool) -> None:
        """End: an optimizer step was made, or skipped."""
        self.phase, self._inside = "idle", False  # first: an interrupted end must not be made twice
        self.clock.count(completed=completed)
        if completed:
            self._missed = 0.0
        self._forget()

    def abandon(self) -> None:
        """End without an attempt, as if the step had never begun."""
        self._forget()
        self.phase, self._inside = "idle", False

    def _forget(self) -> None:
        self._observed, self._watched, self._infinite = None, (), []
        self._made, self._written = (), False
        self._without_gradient, self._late = (), False
        self._steps, self._skips = [0] * len(self.optimizers), [False] * len(self.optimizers)
        self._unscaled = self.paused = False

    # ------------------------------------------------------------------ what happened

    @property
    def stepped(self) -> bool:
        """Whether an optimizer has stepped since `ready`."""
        return any(self._steps)

    def skipped_parameters(self) -> set[int]:
        """Return the ids of the parameters whose optimizer did not step, though another did."""
        idle = (optimizer for optimizer, steps in zip(self.optimizers, self._steps, strict=True) if not steps)
        return {id(parameter) for parameter in parameters_of(idle)}

    def was_skipped(self) -> bool:
        """Whether every optimizer that did not step was meant to skip: its gradients are not finite."""
        missing = [index for index, steps in enumerate(self._steps) if not steps]
        return all(self._skips[index] or self._not_finite(index) for index in missing)

    def _not_finite(self, index: int) -> bool:
        if index < len(self._infinite):
            return any(bool(found) for found in self._infinite[index].values())
        gradients = (parameter.grad for parameter in parameters_of([self.optimizers[index]]))
        return any(not bool(_values(gradient).isfinite().all()) for gradient in gradients if gradient is not None)

    def complaint(self) -> str | None:
        """Return what is wrong with the steps that were made; None if each optimizer stepped once, or skipped."""
        if self._late:
            return "gradients were made after on_before_optimizer_step(): call it after backward()"
        if max(self._steps, default=0) > 1:
            return (
                f"optimizer.step() ran {max(self._steps)} times between two calls of on_step_end(): call all hooks "
                "once for each step"
            )
        if self.stepped and not all(self._steps) and not self.was_skipped():
            index = self._steps.index(0)
            name = type(self.optimizers[index]).__name__
            return (
                f"of the {len(self._steps)} optimizers given to apply(), number {index + 1} ({name}) did not step: "
                "step all of them between on_before_optimizer_step() and on_step_end()"
            )
        return None

    def count_missing(self, *, written: bool) -> str | None:
        """Count a transaction in which no optimizer of ours stepped; return what is probably wrong, or None.

        `written` says that somebody has changed latent weights.
        """
        if written or self.moved:
            return f"the weights were changed, but not by {self._names()}: step the optimizer that apply() was given"
        parameters = list(parameters_of(self.optimizers))
        sure = any(p.grad is not None for p in parameters) or not any(p.requires_grad for p in parameters)
        self._missed += 1 if sure else 1 / PATIENCE  # without gradients nobody knows: they may have been infinite
        if self._missed < PATIENCE:
            return None
        self._missed = 0.0
        return (
            f"{PATIENCE} times in a row on_step_end() was called without a step of {self._names()}: was it replaced, "
            "copied, or made for another model? (call on_step_end() after optimizer.step())"
        )

    def _names(self) -> str:
        return " or ".join(f"the {type(optimizer).__name__} given to apply()" for optimizer in self.optimizers)

    def take_stray(self) -> str | None:
        """Return, once, that an optimizer stepped outside of a transaction."""
        if not self._stray:
            return None
        self._stray = False
        return (
            "optimizer.step() ran without on_step_begin() and on_before_optimizer_step() before it: this step is "
            "kept, with the masks applied, but it is not counted"
        )

    # ------------------------------------------------------------------ gradient scaling

    def unscale(self) -> None:
        """Unscale the gradients, if `apply` was given a scaler, and note what it found in them."""
        scaler = self._scaler
        if scaler is None or not scaler.is_enabled():
            return
        for optimizer in self.optimizers:
            try:
                scaler.unscale_(optimizer)
            except RuntimeError as error:
                if "already been called" not in str(error):
                    raise
                if self._unscaled:
                    raise HookError(
                        "with a GradScaler, on_before_optimizer_step() is called once for each optimizer step, right "
                        "before it: gradients cannot be unscaled twice"
                    ) from None
        states = getattr(scaler, "_per_optimizer_states", {})
        self._infinite = (
            [states[id(each)].get("found_inf_per_device", {}) for each in self.optimizers] if states else []
        )
        self._unscaled = True

    def scale(self) -> float:
        """Return what the gradients of this step were multiplied by, if `apply` was given the scaler."""
        scaler = self._scaler
        return float(scaler.get_scale()) if scaler is not None and scaler.is_enabled() else 1.0

    # ------------------------------------------------------------------ hooks of the optimizers

    def _before_step(self, optimizer: Any, arguments: Any, options: Any) -> None:
        """Refuse a closure (L-BFGS, SAM) where it would see latent weights, or where its gradients would not be ours.

        One that calls the hooks itself, after its backward, is served: the transaction is not ready yet.
        """
        first = self.phase == "ready" and not self.stepped and id(optimizer) not in self._entered
        self._entered.add(id(optimizer))
        if first and self._perturbed() and self._refuses_closures():
            raise HookError(
                "the weights were written to before optimizer.step() on both sides of a backward (as SAM does): "
                "this does not work with latent weights, nor with gradients that are read"
            )
        given = any(map(callable, (*arguments, *options.values())))
        again = self._inside  # a call with a closure that has not come back: it raised
        if given and not again and self.phase == "ready" and self._refuses_closures():
            raise HookError(
                "optimizer.step() got a closure, which would take latent weights for those of the model and make new "
                "gradients: call on_before_optimizer_step() inside it, after its backward"
            )
        self._inside = given

    def _perturbed(self) -> bool:
        """Whether the gradients belong to other weights than the optimizer is about to change."""
        if not self.moved:
            return False
        return self._written or any(each.grad is not None and each.grad is not made() for each, made in self._made)

    @property
    def moved(self) -> bool:
        """Whether somebody has written to the weights since they were made ready."""
        return _versions(self._watched) != self._versions

    def leave_closure(self) -> None:
        """The closure that an optimizer runs is about to raise."""
        self._inside = False

    @property
    def inside_closure(self) -> bool:
        """Whether an optimizer is running a closure."""
        return self._inside

    def _after(self, index: int) -> Callable[[Any, Any, Any], None]:
        def after_step(optimizer: Any, arguments: Any, options: Any) -> None:
            """Learn that the step happened; a fused optimizer is called for a skipped step too, and says so here."""
            self._inside = False
            if id(optimizer) not in self._entered:
                return
            self._entered.remove(id(optimizer))
            found = getattr(optimizer, "found_inf", None)
            if isinstance(found, Tensor) and bool(found.item()):
                self._skips[index] = True
            elif self.phase == "ready":
                self._steps[index] += 1
                self._late = self._late or any(each.grad is not None for each in self._without_gradient)
            else:
                self._stray = True
                self._repair()

        return after_step


def _versions(tensors: Sequence[Tensor]) -> tuple[int, int]:
    """Return numbers that change when one of the tensors is written to (but through `.data`), or given other data."""
    return sum(tensor._version for tensor in tensors), sum(tensor.data_ptr() for tensor in tensors)


def _values(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient
