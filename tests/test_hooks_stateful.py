"""Hooks, steps, skips, loads and exceptions in any order: right, or one clear error and able to go on."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.hooks import KINDS, OPERATIONS, STEPS, Loop, choose, drive


class AnyOrder(RuleBasedStateMachine):
    """One loop; hypothesis chooses what it does."""

    loop: Loop

    @initialize(kind=st.sampled_from(sorted(KINDS)), optimizers=st.sampled_from([1, 2]))
    def begin(self, kind: str, optimizers: int) -> None:
        self.loop = Loop(kind, optimizers)

    @rule(name=st.sampled_from(sorted(OPERATIONS)), seed=st.integers(0, 1000))
    def anything(self, name: str, seed: int) -> None:
        self._do(name, random.Random(seed))

    @rule(seed=st.integers(0, 1000))
    def what_fits(self, seed: int) -> None:
        chance = random.Random(seed)
        self._do(choose(self.loop, chance, tame=True), chance)

    def _do(self, name: str, chance: random.Random) -> None:
        if self.loop.manager.step < STEPS - 1:
            OPERATIONS[name][1](self.loop, chance)

    @invariant()
    def promises_hold(self) -> None:
        if hasattr(self, "loop"):
            self.loop.check()

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.finish()


def test_any_order_is_right_or_one_clear_error() -> None:
    allowed = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    chosen = settings(max_examples=60, stateful_step_count=25, suppress_health_check=allowed, database=None)
    run_state_machine_as_test(AnyOrder, settings=chosen)


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_random_orders(first: int) -> None:
    clean = sum(drive(seed).clean for seed in range(first, first + 50))
    assert clean > 10, "many of them must have been compared with the guarded loop"


def _lightning(loop: Loop, step: int) -> None:
    """Lightning's automatic optimization: everything happens in the closure given to `optimizer.step`."""
    (optimizer,) = loop.optimizers

    def closure() -> None:
        loop.zero()
        loop.manager.on_step_begin()
        loop.backward(step)
        loop.manager.on_before_optimizer_step()
        loop.ready = list(loop.pending)

    optimizer.step(closure)
    loop.end()


def _micro_batches(loop: Loop, step: int) -> None:
    """Gradient accumulation, all hooks but the first guarded."""
    for micro in range(3):
        loop.begin()
        loop.backward(step + micro)
    loop.before()
    loop.step()
    loop.end()


def _zero_first(loop: Loop, step: int) -> None:
    """Gradients are zeroed right after the step, before `on_step_end`."""
    loop.begin()
    loop.backward(step)
    loop.before()
    loop.step()
    ready = loop.ready
    loop.zero()
    loop.ready = ready
    loop.end()


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("order", [_lightning, _micro_batches, _zero_first])
def test_orders_of_known_trainers(kind: str, order: Callable[[Loop, int], None]) -> None:
    loop = Loop(kind)
    for step in range(STEPS - 2):
        order(loop, step)
        loop.check()
    loop.whole_step(STEPS)
    assert loop.clean, loop.errors
    loop.finish()
