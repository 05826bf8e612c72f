"""The transaction in Lightning's loop, which runs forward and backward within the optimizer's step.

on_train_batch_start         manager.on_step_begin: the first micro-batch opens the step, the others find it open
on_before_optimizer_step     manager.on_before_optimizer_step: after the last backward and unscaling, before clipping
(the optimizer has stepped)  manager.on_step_end, by a hook on the optimizer: whatever comes next sees a sparse model
on_train_batch_end           manager.on_step_end for a step that a scaler has skipped

In manual optimization a batch may have several steps, the next one begins where one ends; and the module clips itself,
before Lightning's event: what `clip_gradients` asks for is done when the gradients are masked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from sparsify import HookError, Manager

_LATE = (
    "backward() came after gradients were clipped, or after one of several optimizers had stepped: make all backwards "
    "first; or give each optimizer's part of the model a callback of its own, SparsifyCallback(…, model=…)"
)


class Steps:
    """The steps of a manager's optimizers. Made before `apply`, attached after it, and ended."""

    def __init__(self, manager: Manager, optimizers: Sequence[Any], trainer: Any, *, manual: bool) -> None:
        self.manager, self.manual = manager, manual
        self.device = trainer.strategy.root_device.type
        self.ours = {id(optimizer) for optimizer in optimizers}
        self.open = False
        """Whether a step has begun."""

        self.ready = False
        """Whether its gradients are masked."""

        self._asked: set[int] = set()
        """The optimizers that are about to step, or have."""

        self._left = set(self.ours)
        """Those that have not stepped."""

        self._clips: list[Callable[[], Any]] = []
        """What the module wants clipped before they step."""

        self.optimizers = optimizers
        self._handles = [each.register_step_pre_hook(self._before_step) for each in optimizers] if manual else []
        self._plugin, self._clip = trainer.precision_plugin, trainer.precision_plugin.clip_gradients

    def attach(self) -> None:
        """Learn of the optimizers' steps, after the manager has."""
        self._handles += [each.register_step_post_hook(self._stepped) for each in self.optimizers]
        if self.manual:
            self._plugin.clip_gradients = self._clip_masked

    def begin(self, batch: Any = None) -> None:
        """Begin a step, unless one is under way."""
        self.manager.on_step_begin(batch)
        self.open = True

    def before(self, optimizer: Any) -> None:
        """Gradients are complete: mask them, before the first of our optimizers steps."""
        if id(optimizer) not in self.ours:
            return
        again = id(optimizer) in self._asked  # a closure that is run twice: the manager knows what to say
        self._asked.add(id(optimizer))
        if not self.ready or again:
            self._mask()

    def _mask(self) -> None:
        if not self.open:
            self.begin()
        with self._without_autocast():
            self.manager.on_before_optimizer_step()
        self.ready, clips, self._clips = True, self._clips, []
        for clip in clips:
            clip()

    def after_backward(self) -> None:
        """Raise HookError for a backward whose gradients come too late."""
        if self._clips or (self.manual and self.ready and self._left != self.ours):
            raise HookError(_LATE)

    def _before_step(self, optimizer: Any, arguments: Any, options: dict[str, Any]) -> Any:
        """Run what Lightning gives to every optimizer, its own event, before the step of one that is not the first.

        The manager would take it for a closure that makes gradients, and weights are latent by then. One that does is
        refused in `after_backward`.
        """
        closure = options.get("closure")
        if not self.ready or closure is None:
            return None
        with torch.enable_grad():
            closure()
        return arguments, {**options, "closure": None}

    def _stepped(self, optimizer: Any, arguments: Any, options: Any) -> None:
        """End the transaction with the last of our optimizers."""
        self._left.discard(id(optimizer))
        if self.ready and not self._left:
            self.over()
            if self.manual:
                self.begin()

    def over(self) -> None:
        """End the step: an optimizer has stepped, or none will."""
        self.open = self.ready = False
        self._asked, self._left, self._clips = set(), set(self.ours), []
        with self._without_autocast():
            self.manager.on_step_end()

    def pause(self) -> None:
        """An evaluation comes in the middle of an accumulation: the next batch goes on with the same step."""
        if not self.ready:
            self.open = False

    def end(self) -> None:
        """Give back what was taken over. Again: nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if vars(self._plugin).get("clip_gradients") == self._clip_masked:
            del self._plugin.clip_gradients

    def _clip_masked(self, optimizer: Any, *arguments: Any, **options: Any) -> None:
        """Have Lightning clip the gradients of our optimizers when they are masked, those of others now."""
        clip = functools.partial(self._clip, optimizer, *arguments, **options)
        inner = getattr(optimizer, "optimizer", optimizer)  # Lightning's wrapper keeps it there
        if id(inner) in self.ours and not self.ready:
            self._clips.append(clip)
        else:
            clip()

    @contextmanager
    def _without_autocast(self) -> Iterator[None]:
        """Leave the autocast region in which a manual step is made; what it has cached of weights is forgotten."""
        kinds = [kind for kind in {"cpu", self.device} if torch.is_autocast_enabled(kind)]
        with ExitStack() as stack:
            for kind in kinds:
                stack.enter_context(torch.autocast(kind, enabled=False))
            yield
        if kinds:
            torch.clear_autocast_cache()


def optimizers_of(trainer: Any, parameters: Callable[[], Iterator[Any]]) -> list[Any]:
    """Return the optimizers that hold any of some parameters; all, where none does: the manager says what is wrong."""
    held = {id(parameter) for parameter in parameters()}
    groups = {id(each): each.param_groups for each in trainer.optimizers}
    found = [
        each
        for each in trainer.optimizers
        if any(id(parameter) in held for group in groups[id(each)] for parameter in group["params"])
    ]
    return found or list(trainer.optimizers)
