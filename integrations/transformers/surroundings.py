"""The Trainer around our callback (it hands itself to none): found by its arguments, watched, and asked to clip later.

`trainer.train` still is the Trainer's own, but tells us if an exception leaves it. `accelerator.clip_grad_norm_` masks
the gradients before it clips them, in our trainings; in all others it is itself. `args.max_grad_norm` is never changed.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from transformers import Trainer, TrainerCallback


def trainer_of(callback: TrainerCallback, args: Any) -> Any | None:
    """Return the Trainer that has `callback` among its callbacks and `args` as its arguments; None where there is none.

    A Trainer hands itself to no callback. It is found among the objects that hold its arguments.
    """
    for trainer in _holders(args):
        if isinstance(trainer, Trainer) and any(other is callback for other in trainer.callback_handler.callbacks):
            return trainer
    return None


def _holders(value: Any) -> Iterator[Any]:
    """Yield the objects of which `value` is an attribute, and others that hold it."""
    for holder in gc.get_referrers(value):
        if isinstance(holder, dict):  # the attributes of an object, where they have a dict of their own
            yield from gc.get_referrers(holder)
        else:
            yield holder


def come_first(trainer: Any, callback: TrainerCallback) -> None:
    """Move `callback` to the front: the Trainer puts its loggers there, which would not see our values."""
    callbacks = trainer.callback_handler.callbacks
    if callbacks[0] is not callback:
        callbacks.remove(callback)
        callbacks.insert(0, callback)


class Watched:
    """Stands for a method of a Trainer, and calls `broken_off()` when an exception leaves it, from wherever."""

    def __init__(self, trainer: Any, name: str, broken_off: Callable[[], None]) -> None:
        self.trainer, self.name, self.broken_off = trainer, name, broken_off
        self.before: Callable[..., Any] | None = trainer.__dict__.get(name)
        functools.update_wrapper(self, getattr(trainer, name))

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        try:
            if self.before is not None:
                return self.before(*arguments, **options)
            return getattr(type(self.trainer), self.name)(self.trainer, *arguments, **options)
        except BaseException:
            self.broken_off()
            raise


def watch(trainer: Any, broken_off: Callable[[], None]) -> None:
    """Have `broken_off()` called when a training of `trainer` is left by an exception; once or more often.

    That is seen around `train`; and around the epochs, in those versions that have a method for them: `train` runs
    already where a callback was added after the Trainer was made.
    """
    for name in ("train", "_run_epoch"):
        if hasattr(trainer, name) and not _is_watched(trainer, name, broken_off):
            setattr(trainer, name, Watched(trainer, name, broken_off))


def _is_watched(trainer: Any, name: str, broken_off: Callable[[], None]) -> bool:
    now = trainer.__dict__.get(name)
    while isinstance(now, Watched):
        if now.broken_off == broken_off:
            return True
        now = now.before
    return False


class Within:
    """Stands for a method of a Trainer, which runs within a context of ours while a training lasts."""

    def __init__(self, trainer: Any, name: str, context: Callable[[], AbstractContextManager[None]]) -> None:
        self.trainer, self.name, self.context = trainer, name, context
        self.before: Callable[..., Any] | None = trainer.__dict__.get(name)
        functools.update_wrapper(self, getattr(trainer, name))
        setattr(trainer, name, self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        with self.context():
            if self.before is not None:
                return self.before(*arguments, **options)
            return getattr(type(self.trainer), self.name)(self.trainer, *arguments, **options)

    def end(self) -> None:
        """Give the Trainer its own back. Again: nothing."""
        if self.trainer.__dict__.get(self.name) is self:
            if self.before is None:
                delattr(self.trainer, self.name)
            else:
                setattr(self.trainer, self.name, self.before)


class Clipping:
    """Stands for `accelerator.clip_grad_norm_` while a training of ours lasts.

    The Trainer clips before its pre-step event, over gradients of weights that are not there. `clip(max_norm)` masks
    them first and returns the norm of what is left. It is asked at the end of an optimizer step's last backward, and
    only in the training whose state was the Trainer's when this was made.
    """

    def __init__(self, trainer: Any, clip: Callable[[float], Tensor]) -> None:
        self.trainer, self.state, self.clip = trainer, trainer.state, clip
        self.accelerator = trainer.accelerator
        self.before: Callable[..., Any] | None = self.accelerator.__dict__.get("clip_grad_norm_")
        self.accelerator.clip_grad_norm_ = self

    def __call__(self, parameters: Any, max_norm: float, norm_type: float = 2) -> Any:
        if self.trainer.state is self.state and self.accelerator.sync_gradients and norm_type == 2:
            return self.clip(max_norm)
        if self.before is not None:
            return self.before(parameters, max_norm, norm_type)
        return type(self.accelerator).clip_grad_norm_(self.accelerator, parameters, max_norm, norm_type)

    def end(self) -> None:
        """Give the accelerator its own back. Again: nothing."""
        if self.accelerator.__dict__.get("clip_grad_norm_") is self:
            if self.before is None:
                del self.accelerator.clip_grad_norm_
            else:
                self.accelerator.clip_grad_norm_ = self.before
