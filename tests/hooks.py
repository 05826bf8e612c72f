"""A training loop that does everything in any order: what a user's loop may do, one operation at a time.

`Loop` checks after every operation what must hold then, and at the end that the model is that of a plain, guarded loop
(`replayed`) over the same batches, if no error was raised on the way. `python -m tests.hooks --sequences 100000` drives
random orders and prints what it found.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sparsify import HookError, Manager, Recipe, StateError
from sparsify.errors import ScoreError, SparsifyError

STEPS = 6
WINDOW = "window: {begin: 1, end: 4}"
LOCK = 'type: prune, name: lock, targets: "*", criterion: existing, window: {begin: 4}'
KINDS: dict[str, list[str]] = {
    "magnitude": [f'type: prune, targets: "*", sparsity: 0.7, {WINDOW}'],
    "latent": [f'type: prune, targets: "*", masking: latent, sparsity: 0.7, {WINDOW}', LOCK],
    "movement": [f'type: prune, targets: "*", criterion: movement, sparsity: 0.7, {WINDOW}', LOCK],
    "soft": [f'type: prune, targets: "*", criterion: soft-movement, sparsity: 0.7, {WINDOW}'],
    "l0": [f'type: prune, targets: "*", criterion: hard-concrete, sparsity: 0.7, {WINDOW}', LOCK],
    "penalty": ['type: penalty, targets: "*", norm: l2, strength: 0.05, window: {begin: 0, end: 3}', LOCK],
    "freeze": [
        f'type: prune, targets: "*", masking: latent, sparsity: 0.7, {WINDOW}',
        'type: freeze, targets: "0", end: 5',
    ],
    "rigl": [f'type: regrow, targets: "*", scope: global, sparsity: 0.7, {WINDOW}'],
    "ac-dc": [
        'type: regrow, targets: "*", scope: global, grow: everything, dense: 1, sparsity: 0.7, '
        "window: {begin: 0, end: 4, every: 2}"
    ],
    "rate": [
        f'type: prune, targets: "*", criterion: movement, sparsity: 0.7, {WINDOW}',
        "type: learning_rate, cycles: 2, end: 5",
    ],
}
SAMPLED = frozenset({"l0"})
"""Kinds whose weights are sampled within a step."""


ZEROS = -1
"""In place of a batch: gradients that are zero, which momentum takes for gradients."""


class BrokenError(Exception):
    """What the user's code raises."""


class Breaking(torch.optim.SGD):
    """SGD that fails in the middle of a step when asked to."""

    broken = False

    def step(self, closure: Any = None) -> Any:
        if self.broken:
            type(self).broken = False
            with torch.no_grad():
                self.param_groups[0]["params"][0].add_(1.0)
            raise MemoryError("out of memory in optimizer.step()")
        return super().step(closure)


@cache
def recipe(kind: str) -> Recipe:
    """Return the recipe of a kind."""
    return Recipe.parse("version: 1\nmodifiers:\n" + "".join(f"  - {{{text}}}\n" for text in KINDS[kind]))


def build(optimizers: int) -> tuple[nn.Sequential, list[torch.optim.Optimizer]]:
    """Return a small model in float64, and its optimizers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    parts = [model.parameters()] if optimizers == 1 else [model[0].parameters(), model[2].parameters()]
    return model, [Breaking(part, lr=0.1, momentum=0.9) for part in parts]


def loss_on(model: nn.Module, batch: int) -> Tensor:
    """Return the loss on a batch."""
    return (model(inputs_of(batch)) - 0.3).square().mean() * (1 + batch % 3)


@cache
def inputs_of(batch: int) -> Tensor:
    """Return the inputs of a batch."""
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(batch), dtype=torch.float64)


class Loop:
    """The model, its optimizers and its manager, and what was done with them."""

    def __init__(self, kind: str, optimizers: int = 1) -> None:
        self.kind = kind
        self.model, self.optimizers = build(optimizers)
        self.manager = self._applied()
        self.pending: list[int] = []
        """Batches whose gradients are there."""
        self.history: list[list[int]] = []
        """The batches of every completed step."""
        self.ready: list[int] | None = None
        self.stepped = False
        self.saved: tuple[Any, ...] | None = None
        self.clean = True
        """Whether nothing was raised, and nobody else has written to the weights."""
        self.errors: Counter[str] = Counter()

    def _applied(self) -> Manager:
        given = self.optimizers if len(self.optimizers) > 1 else self.optimizers[0]
        return Manager(recipe(self.kind)).apply(self.model, given, total_steps=STEPS)  # type: ignore[arg-type]

    # ------------------------------------------------------------------ operations

    def begin(self) -> None:
        self._try(self.manager.on_step_begin)
        if self.manager._transaction.phase == "open" and self.ready is not None:
            self.ready = None

    def backward(self, batch: int) -> None:
        """A micro-batch; not between the hooks around the optimizer's step, where nobody could notice it."""
        phase, paused = self.manager._transaction.phase, self.manager._transaction.paused
        if phase == "ready" or (self.kind in SAMPLED and (phase != "open" or paused)):
            return
        loss_on(self.model, batch).backward()
        self.pending.append(batch)

    def backward_too_late(self) -> None:
        """Gradients that were not there when they should have been."""
        if self.manager._transaction.phase == "ready" and not self.pending and not self.stepped:
            loss_on(self.model, 0).backward()
            self.clean = False

    def before(self) -> None:
        if self._try(self.manager.on_before_optimizer_step):
            self.ready, self.stepped = list(self.pending), False

    def step(self, which: int | None = None) -> None:
        """`optimizer.step()` of all optimizers, or of one."""
        phase = self.manager._transaction.phase
        for index, optimizer in enumerate(self.optimizers):
            if which is None or which == index:
                try:
                    optimizer.step()
                except (MemoryError, HookError):
                    self.clean = False
        if phase != "ready" or (which is not None and len(self.optimizers) > 1) or self.stepped:
            self.clean = False
        self.stepped = True

    def end(self) -> None:
        before = self.manager.step
        self._try(self.manager.on_step_end)
        if self.manager.step > before:
            self.history.append(self.ready or [])
            self.ready, self.stepped = None, False
            self.zero()

    def zero(self, to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=to_none)
        self.pending = [] if all(parameter.grad is None for parameter in self.model.parameters()) else [ZEROS]

    def whole_step(self, batch: int) -> None:
        """What the documentation says."""
        self.zero()
        self.begin()
        self.backward(batch)
        self.before()
        self.step()
        self.end()

    def forward_fails(self) -> None:
        """The user's forward raises; gradients stay as they are."""
        try:
            loss_on(self.model, 1)
            raise BrokenError
        except BrokenError:
            pass

    def step_fails(self) -> None:
        Breaking.broken = True
        self.step()
        Breaking.broken = False

    def score_fails(self, batch: int) -> None:
        """A step whose update raises, as for scores that are NaN."""
        kept = {run: run.update for run in self.manager._runs}

        def update(step: int) -> None:
            raise ScoreError("the scores hold NaN values")

        for run in kept:
            run.update = update  # type: ignore[method-assign]
        self.whole_step(batch)
        for run, method in kept.items():
            run.update = method  # type: ignore[method-assign]
        self.clean = False

    def write(self) -> None:
        """Somebody clamps the weights, in a way that no version counter sees."""
        if self.manager._transaction.phase == "ready":
            return
        for parameter in self.model.parameters():
            parameter.data.clamp_(-0.3, 0.3)
        self.clean = False

    def save(self) -> None:
        if self.manager._transaction.phase == "idle" and not self.manager._transaction._stray:
            parts = (self.model, *self.optimizers, self.manager)
            self.saved = (*(copy.deepcopy(part.state_dict()) for part in parts), list(self.history), self.clean)  # type: ignore[attr-defined]

    def load(self) -> None:
        """Go back, at any moment, in the same process."""
        if self.saved is None:
            return
        states, history, clean = self.saved[:-2], self.saved[-2], self.saved[-1]
        for part, state in zip((self.model, *self.optimizers), states[:-1], strict=True):
            part.load_state_dict(copy.deepcopy(state))
        try:
            self.manager.load_state_dict(copy.deepcopy(states[-1]))
        except StateError:  # saved after somebody had written under masks: refused, in one sentence
            assert not clean
            self.saved, self.clean = None, False
            return
        self.history, self.clean, self.ready, self.stepped = list(history), clean, None, False
        self.zero()

    def apply_anew(self) -> None:
        """A notebook's cell is run again."""
        self.zero()
        self.manager = self._applied()
        self.history, self.clean, self.ready, self.stepped, self.saved = [], False, None, False, None

    def _try(self, hook: Callable[[], Any]) -> bool:
        try:
            hook()
        except (SparsifyError, MemoryError) as error:
            self.clean = False
            self.ready, self.stepped = None, False
            self.errors[f"{hook.__name__}: {type(error).__name__}"] += 1
            return False
        return True

    # ------------------------------------------------------------------ what must hold

    def check(self) -> None:
        """Check the promises that hold at every moment."""
        manager, phase = self.manager, self.manager._transaction.phase
        if self.clean:
            assert manager.step == len(self.history), (manager.step, self.history)
        if phase == "ready" or (phase == "open" and self.kind in SAMPLED) or manager._transaction._stray:
            return
        assert {group["lr"] for each in self.optimizers for group in each.param_groups} == {0.1}, "ours is still in"
        elements = zeros = 0
        for masked in manager._masks:
            weight, mask = masked.weight.tensor, masked.mask
            if self.clean:
                assert not bool(weight[~mask].count_nonzero()), f"{masked.weight.name} is not under its mask"
            elements, zeros = elements + mask.numel(), zeros + int((~mask).sum())
        total = sum(weight.geometry.elements for weight in manager.plan.targeted())
        assert math.isclose(manager.sparsity, zeros / total, abs_tol=1e-12)

    def finish(self) -> None:
        """Go on as the documentation says: it must work; then compare with the guarded loop."""
        self._try(self.manager.on_step_begin)  # an error of the last operation may come now
        self._try(self.manager.on_step_end)
        clean = self.clean
        if not clean:  # what was broken off is over
            self.manager.detach()
            self.zero()
            self.manager = self._applied()
            self.errors_before = self.errors.copy()
        errors = sum(self.errors.values())
        while self.manager.step < STEPS:
            self.whole_step(self.manager.step + 100)
            self.check()
            assert sum(self.errors.values()) == errors, self.errors
        found = self.manager.finalize()
        for parameter in self.model.parameters():
            assert bool(parameter.isfinite().all())
        if self.kind != "penalty":
            assert found.targeted.sparsity > 0.65
        if clean:
            other = replayed(self.kind, len(self.optimizers), self.history)
            for mine, theirs in zip(self.model.parameters(), other.parameters(), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def replayed(kind: str, optimizers: int, history: list[list[int]]) -> nn.Module:
    """Return the model of a guarded loop over the same batches: the slow and obvious reference."""
    model, own = build(optimizers)
    manager = Manager(recipe(kind)).apply(model, own, total_steps=STEPS)
    for batches in history:
        manager.on_step_begin()
        for optimizer in own:
            optimizer.zero_grad()
        for batch in batches:
            (loss_on(model, max(batch, 0)) * (batch != ZEROS)).backward()
        manager.on_before_optimizer_step()
        for optimizer in own:
            optimizer.step()
        manager.on_step_end()
    return model


OPERATIONS: dict[str, tuple[int, Callable[[Loop, random.Random], Any]]] = {
    "whole step": (6, lambda loop, chance: loop.whole_step(chance.randrange(50))),
    "begin": (6, lambda loop, chance: loop.begin()),
    "backward": (8, lambda loop, chance: loop.backward(chance.randrange(50))),
    "before": (6, lambda loop, chance: loop.before()),
    "step": (5, lambda loop, chance: loop.step()),
    "end": (6, lambda loop, chance: loop.end()),
    "zero": (2, lambda loop, chance: loop.zero(chance.random() < 0.5)),
    "forward fails": (1, lambda loop, chance: loop.forward_fails()),
    "step of one": (1, lambda loop, chance: loop.step(chance.randrange(len(loop.optimizers)))),
    "step fails": (1, lambda loop, chance: loop.step_fails()),
    "score fails": (1, lambda loop, chance: loop.score_fails(chance.randrange(50))),
    "backward too late": (1, lambda loop, chance: loop.backward_too_late()),
    "write": (1, lambda loop, chance: loop.write()),
    "save": (2, lambda loop, chance: loop.save()),
    "load": (2, lambda loop, chance: loop.load()),
    "apply anew": (1, lambda loop, chance: loop.apply_anew()),
}


TAME = {
    "idle": ("whole step", "begin", "backward", "end", "zero", "save", "load", "forward fails"),
    "open": ("begin", "backward", "backward", "before", "before", "end", "zero", "forward fails"),
    "ready": ("step", "step", "begin", "end"),
}
"""What may be done in each phase without an error (nearly always)."""


def choose(loop: Loop, chance: random.Random, *, tame: bool) -> str:
    """Return the next operation."""
    if not tame:
        return chance.choices(list(OPERATIONS), [weight for weight, _ in OPERATIONS.values()])[0]
    phase = loop.manager._transaction.phase
    return "end" if phase == "ready" and loop.stepped else chance.choice(TAME[phase])  # type: ignore[index]


def drive(seed: int) -> Loop:
    """Run one random sequence; most of them do nothing that is wrong."""
    chance = random.Random(seed)
    loop = Loop(chance.choice(list(KINDS)), chance.choice((1, 1, 2)))
    tame = chance.random() < 0.6
    done = []
    try:
        for _ in range(chance.randrange(2, 16)):
            if loop.manager.step >= STEPS - 1:
                break
            done.append(choose(loop, chance, tame=tame))
            OPERATIONS[done[-1]][1](loop, chance)
            loop.check()
        loop.finish()
    except BaseException as error:
        error.args = (f"seed {seed}, {loop.kind}, {len(loop.optimizers)} optimizers: {done}: {error!r}",)
        raise
    return loop


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    begin, clean, errors = time.perf_counter(), 0, Counter[str]()
    for number in range(given.sequences):
        loop = drive(given.seed + number)
        clean += loop.clean
        errors += loop.errors
        if (number + 1) % 1000 == 0:
            print(f"{number + 1} sequences, {clean} without an error, {time.perf_counter() - begin:.0f} s", flush=True)
    print(f"{given.sequences} sequences: {clean} equal the guarded loop; errors raised: {dict(errors.most_common())}")


if __name__ == "__main__":
    main()
