"""States that are not what was saved: each is refused by a StateError that changes nothing, or can be gone on from.

`python -m tests.state_fuzz --states 5000` mutates states of many kinds at random, and prints what it found.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from sparsify import Manager, Recipe, SparsifyError, StateError

STEPS = 8
KINDS = {
    "magnitude": 'targets: "*", sparsity: 0.6, window: {begin: 1, end: 6}',
    "latent": 'targets: "*", masking: latent, scope: global, sparsity: 0.6, window: {begin: 1, end: 6}',
    "blocks": 'targets: "*", pattern: {type: block, shape: [2, 2]}, sparsity: 0.5, window: {begin: 1, end: 6}',
    "movement": 'targets: "*", criterion: movement, sparsity: 0.6, window: {begin: 1, end: 6}',
    "movement by sgd": 'targets: "*", criterion: {type: movement, optimizer: sgd}, sparsity: 0.6, window: {end: 6}',
    "soft": 'targets: "*", criterion: soft-movement, biases: with-rows, sparsity: 0.6, window: {begin: 1, end: 6}',
    "l0": 'targets: "*", criterion: hard-concrete, sparsity: 0.6, window: {begin: 1, end: 6}',
    "lock": 'targets: "*", criterion: existing, window: {begin: 2}',
    "existing": 'targets: "*", criterion: movement, sparsity: {from: existing, to: 0.6}, window: {begin: 1, end: 6}',
}


@cache
def recipe(kind: str) -> Recipe:
    """Return the recipe of a kind."""
    return Recipe.parse(f"version: 1\nmodifiers:\n  - {{type: prune, {KINDS[kind]}}}\n")


def start(kind: str) -> tuple[nn.Module, torch.optim.Optimizer, Manager]:
    """Return a small model with some zeros in it, its optimizer and its manager."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    with torch.no_grad():
        model[0].weight[:, 0] = 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, Manager(recipe(kind)).apply(model, optimizer, total_steps=STEPS)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, manager: Manager, until: int) -> None:
    """Train up to a step."""
    while manager.step < until:
        manager.on_step_begin()
        optimizer.zero_grad()
        model(torch.ones(3, 4)).square().mean().backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()


@cache
def saved(kind: str, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the states of model and manager after some steps."""
    model, optimizer, manager = start(kind)
    train(model, optimizer, manager, step)
    return copy.deepcopy(model.state_dict()), copy.deepcopy(manager.state_dict())


def mutated(state: Any, chance: random.Random) -> str:
    """Change one value of a state in place, anywhere; return what was done."""
    places = list(_places(state, ()))
    path = chance.choice(places)
    holder: Any = state
    for key in path[:-1]:
        holder = holder[key]
    name, change = chance.choice(list(CHANGES.items()))
    shown = "".join(f".{key}" for key in path)
    if name == "delete":
        if isinstance(holder, tuple):
            return f"nothing at {shown}"
        del holder[path[-1]]
    elif name == "add" and isinstance(holder, dict):
        holder[chance.choice(["other", "", "0.weight", "\ud800", "x" * 5000])] = holder[path[-1]]
    elif not isinstance(holder, tuple):
        try:
            holder[path[-1]] = change(holder[path[-1]], chance)
        except (OverflowError, NotImplementedError, RuntimeError):  # a second change that the first does not allow
            holder[path[-1]] = None
    return f"{name} at {shown}"


def _places(value: Any, path: tuple[Any, ...]) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from _places(inner, (*path, key))


def _tensor(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any, random.Random], Any]:
    return lambda value, chance: change(value) if isinstance(value, torch.Tensor) else torch.zeros(3)


def _number(change: Callable[[Any], Any]) -> Callable[[Any, random.Random], Any]:
    return lambda value, chance: change(value) if isinstance(value, (int, float)) else 7


def _poisoned(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone()
    if tensor.is_floating_point() and tensor.numel():
        tensor.view(-1)[0] = float("nan")
    return tensor


CHANGES: dict[str, Callable[[Any, random.Random], Any]] = {
    "delete": lambda value, chance: value,
    "add": lambda value, chance: value,
    "none": lambda value, chance: None,
    "text": lambda value, chance: "\x1b[31m[/red]\ud800",
    "list": lambda value, chance: [value],
    "empty": lambda value, chance: {},
    "deep": lambda value, chance: {"a": {"a": {"a": value}}},
    "flag": lambda value, chance: not value if isinstance(value, bool) else True,
    "huge": lambda value, chance: 10**5000,
    "negative": _number(lambda value: -1),
    "one more": _number(lambda value: value + 1),
    "half": _number(lambda value: value + 0.5),
    "not a number": lambda value, chance: float("nan"),
    "infinite": lambda value, chance: float("inf"),
    "larger": _tensor(lambda tensor: tensor.repeat(*([2] * max(tensor.dim(), 1)))),
    "shorter": _tensor(lambda tensor: tensor.reshape(-1)[:1]),
    "no elements": _tensor(lambda tensor: tensor.reshape(-1)[:0]),
    "transposed": _tensor(lambda tensor: tensor.t().contiguous() if tensor.dim() == 2 else tensor.unsqueeze(0)),
    "other type": _tensor(lambda tensor: tensor.to(torch.float64)),
    "whole numbers": _tensor(lambda tensor: tensor.to(torch.int64)),
    "poisoned": _tensor(_poisoned),
    "meta": _tensor(lambda tensor: tensor.to("meta")),
    "sparse": _tensor(lambda tensor: tensor.to_sparse() if tensor.dim() else tensor),
    "negated": _tensor(lambda tensor: -tensor.to(torch.float32)),
    "flipped": _tensor(lambda tensor: tensor.flip(0) if tensor.dim() else tensor),
}


def attempt(seed: int) -> str:
    """Load one mutated state; return what came of it. Raises AssertionError where a promise is broken."""
    chance = random.Random(seed)
    kind, step = chance.choice(list(KINDS)), chance.randrange(0, STEPS)
    weights, state = copy.deepcopy(saved(kind, step))
    done = [mutated(state, chance) for _ in range(chance.choice((1, 1, 1, 2, 4)))]
    other = chance.choice(list(KINDS)) if chance.random() < 0.2 else kind
    model, optimizer, manager = start(other)
    model.load_state_dict(weights)
    before = copy.deepcopy(model.state_dict()), manager.state_dict()
    allowed = chance.random() < 0.3
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            manager.load_state_dict(state, allow_changed_recipe=allowed, verify_weights=chance.random() < 0.7)
    except StateError as error:
        assert str(error).isprintable() or "\n" in str(error), f"seed {seed}: {error!r}"
        after = model.state_dict(), manager.state_dict()
        assert same(before, after), f"seed {seed}, {kind}: {done} was refused ({error}), but something has changed"
        return "refused"
    except Exception as error:
        raise AssertionError(f"seed {seed}, {kind} at {step}: {done}: {error!r}") from error
    try:
        train(model, optimizer, manager, STEPS)
        manager.finalize(partial=True)
    except SparsifyError as error:
        return f"taken up, then {type(error).__name__}"
    except Exception as error:
        raise AssertionError(f"seed {seed}, {kind} at {step}: {done} was taken up, then {error!r}") from error
    return "taken up"


def same(one: Any, other: Any) -> bool:
    """Whether two nested values are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--states", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    found = Counter(attempt(given.seed + number) for number in range(given.states))
    print(f"{given.states} states in {time.perf_counter() - begin:.0f} s: {dict(found.most_common())}")


if __name__ == "__main__":
    main()
