"""Learning rates that an optimizer has while it steps, and only then: in place of its own, which schedulers see.

They are put in by a hook right before `optimizer.step()` and taken out by one right after it; where it raises, or is
not called, when the transaction is over. The optimizer's `state_dict()` never has them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_KNOWN: weakref.WeakKeyDictionary[torch.optim.Optimizer, StepRates] = weakref.WeakKeyDictionary()


def step_rates(optimizer: torch.optim.Optimizer) -> StepRates:
    """Return those of an optimizer: all that act on it share them, so that none takes another's for the user's."""
    return _KNOWN.setdefault(optimizer, StepRates())


def factor_in_force(optimizer: torch.optim.Optimizer) -> float | None:
    """Return the schedule's multiple in the step that is under way, or was last; None where the user's rate rules."""
    found = _KNOWN.get(optimizer)
    return None if found is None else found.factor


def rate_in_force(optimizer: torch.optim.Optimizer) -> float | None:
    """Return the first group's learning rate in the step that is under way, or was last; None as above."""
    found = _KNOWN.get(optimizer)
    return found.values[0] if found is not None and found.values else None


class StepRates:
    """The learning rates of one optimizer for one step."""

    def __init__(self) -> None:
        self.factor: float | None = None
        """The multiple of the initial learning rates, for what follows them."""
        self.values: Sequence[float] = ()
        """By parameter group."""
        self._owner: Any = None
        self._armed = False
        """Whether the next step is to have them."""
        self._inside = False
        """Whether the optimizer is stepping: its closure may call our hooks."""
        self._replaced: list[tuple[dict[str, Any], float, Any]] = []
        """(group, ours, the user's) while ours are in."""

    def attach(self, optimizer: torch.optim.Optimizer, keep: Callable[[Any], None]) -> None:
        """Watch an optimizer; `keep` gets the handles that end it."""
        keep(optimizer.register_step_pre_hook(self._before))
        keep(optimizer.register_step_post_hook(self._after))
        keep(optimizer.register_state_dict_post_hook(self._without_ours))
        keep(_AtTheEnd(self))

    def arm(self, optimizer: torch.optim.Optimizer, owner: Any, factor: float, values: Sequence[float]) -> None:
        """Have the next step (or the one that is under way) use these values."""
        self.take_out()
        self._owner, self.factor, self.values, self._armed = owner, factor, values, True
        if self._inside:
            self._put_in(optimizer)

    def release(self, owner: Any) -> None:
        """The owner sets nothing any more: the user's rate rules, unless another has set one."""
        if self._owner is owner:
            self.clear()

    def clear(self) -> None:
        """Let the user's rate rule."""
        self.take_out()
        self._owner, self.factor, self.values = None, None, ()

    def take_out(self) -> None:
        """Give back the user's learning rates, but where somebody has written others since; the step is over."""
        for group, ours, theirs in self._replaced:
            if float(group["lr"]) == ours:
                _write(group, theirs)
        self._replaced, self._armed = [], False

    def _put_in(self, optimizer: torch.optim.Optimizer) -> None:
        for group, value in zip(optimizer.param_groups, self.values, strict=False):
            now = group["lr"]
            theirs = now.clone() if isinstance(now, Tensor) else now
            _write(group, value)
            self._replaced.append((group, float(group["lr"]), theirs))

    # ------------------------------------------------------------------ hooks of the optimizer

    def _before(self, optimizer: torch.optim.Optimizer, arguments: Any, options: Any) -> None:
        self._inside = True
        if self._armed and not self._replaced:
            self._put_in(optimizer)

    def _after(self, optimizer: torch.optim.Optimizer, arguments: Any, options: Any) -> None:
        self._inside = False
        self.take_out()

    def _without_ours(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Have a state that is saved in the middle of a step hold the user's learning rates."""
        replaced = {id(group): theirs for group, _, theirs in self._replaced}
        for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
            saved["lr"] = replaced.get(id(group), saved["lr"])


class _AtTheEnd:
    """A handle whose removal clears rates."""

    def __init__(self, rates: StepRates) -> None:
        self._rates = rates

    def remove(self) -> None:
        self._rates.clear()


def _write(group: dict[str, Any], value: Any) -> None:
    """Set the learning rate of a group; one that is a tensor stays the same tensor, as graphs and compilers want."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(value)
    else:
        group["lr"] = value
