"""Every learned method × pattern, 20 steps against straight-through autograd in float64: masks, scores, weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import Manager, Recipe
from sparsify.modifiers.prune.learned import LearnedRun
from sparsify.modifiers.prune.plan import PrunePlan
from tests.layers import KINDS, Kind
from tests.loop import masks_of
from tests.straight_through import Group, Reference

STEPS, BEGIN, END, EVERY = 20, 4, 16, 2
LAYERS = range(2)
ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
CONVOLUTIONS = ("0", "2", "5")
MATRICES = (*ATTENTION, "intermediate.dense", "output.dense")


def along(shape: tuple[int, ...], axis: int, side: int) -> Tensor:
    """Return which run of `side` rows (or columns) every weight lies in."""
    index = torch.arange(shape[axis]) // side
    return index.view([-1 if dimension == axis else 1 for dimension in range(len(shape))]).expand(shape).contiguous()


def matrices(model: nn.Module, owner: Callable[[tuple[int, ...]], Tensor], **more: int) -> list[Group]:
    """Return a group map for every matrix of the encoder."""
    names = [f"encoder.layer.{layer}.{name}.weight" for layer in LAYERS for name in MATRICES]
    return [Group(name, {name: owner(tuple(model.get_parameter(name).shape))}, **more) for name in names]


def each(shape: tuple[int, ...]) -> Tensor:
    return torch.arange(math.prod(shape)).view(shape)


def blocks(shape: tuple[int, ...]) -> Tensor:
    return along(shape, 0, 4) * (shape[1] // 2) + along(shape, 1, 2)


def neurons(model: nn.Module) -> list[Group]:
    found = []
    for layer in LAYERS:
        up, down = f"encoder.layer.{layer}.intermediate.dense", f"encoder.layer.{layer}.output.dense"
        owners = {f"{up}.weight": along((24, 16), 0, 1), f"{up}.bias": torch.arange(24)}
        found.append(Group(up, owners | {f"{down}.weight": along((16, 24), 1, 1)}))
    return found


def heads(model: nn.Module) -> list[Group]:
    found = []
    for layer in LAYERS:
        owners = {}
        for name in ATTENTION[:3]:
            owners[f"encoder.layer.{layer}.{name}.weight"] = along((16, 16), 0, 4)
            owners[f"encoder.layer.{layer}.{name}.bias"] = torch.arange(16) // 4
        found.append(
            Group("", owners | {f"encoder.layer.{layer}.attention.output.dense.weight": along((16, 16), 1, 4)})
        )
    return found


def filters(model: nn.Module) -> list[Group]:
    owners = [
        {f"{name}.weight": along(tuple(model.get_parameter(f"{name}.weight").shape), 0, 1)} for name in CONVOLUTIONS
    ]
    for name, owner in zip(CONVOLUTIONS[:2], owners, strict=False):  # the last has no bias
        owner[f"{name}.bias"] = torch.arange(16)
    return [Group(name, owner) for name, owner in zip(CONVOLUTIONS, owners, strict=True)]


def channels(model: nn.Module) -> list[Group]:
    found = []
    for name, groups in zip(CONVOLUTIONS, (1, 2, 1), strict=True):
        shape = tuple(model.get_parameter(f"{name}.weight").shape)
        owner = along(shape, 0, shape[0] // groups) * shape[1] + along(shape, 1, 1)
        found.append(Group(name, {f"{name}.weight": owner}))
    return found


PATTERNS: dict[str, tuple[str, Callable[[nn.Module], list[Group]]]] = {
    "unstructured": ("unstructured", lambda model: matrices(model, each)),
    "block": ("{type: block, shape: [4, 2]}", lambda model: matrices(model, blocks)),
    "row": ("row", lambda model: matrices(model, lambda shape: along(shape, 0, 1))),
    "column": ("column", lambda model: matrices(model, lambda shape: along(shape, 1, 1))),
    "neuron": ("neuron", neurons),
    "head": ("head", heads),
    "2:4": ('"2:4"', lambda model: matrices(model, each, runs=4, kept=2)),
    "filter": ("filter", filters),
    "channel": ("channel", channels),
}

METHODS: dict[str, dict[str, Any]] = {
    "hard": {"criterion": "{type: movement, learning_rate: 0.05}", "rate": 0.05},
    "hard zero sgd": {
        "criterion": "{type: movement, init: zero, optimizer: sgd, learning_rate: 3.0}",
        "rate": 3.0,
        "optimizer": "sgd",
        "start": lambda relative: torch.zeros_like(relative),
    },
    "hard clipped, constant rate": {
        "criterion": "{type: movement, learning_rate: 0.05, max_norm: 0.01, follow: false, scale: 0.5, offset: 0.1}",
        "rate": 0.05,
        "max_norm": 0.01,
        "follow": False,
        "start": lambda relative: relative * 0.5 + 0.1,
    },
    "soft": {
        "criterion": "{type: soft-movement, learning_rate: 0.2, floor: 0.02, scale: 0.5}",
        "method": "soft",
        "rate": 0.2,
        "penalty": 200.0,
        "start": lambda relative: relative * 0.5 + math.log(0.1 / 0.9),
    },
    "hard-concrete": {
        "criterion": "{type: hard-concrete, init: constant, learning_rate: 0.8}",
        "method": "hard-concrete",
        "rate": 0.8,
        "penalty": 3000.0,
        "start": lambda relative: torch.full_like(relative, math.log(9.0)),
    },
    "magnitude, latent": {"criterion": "magnitude", "method": "magnitude", "rate": 1.0},
}

CASES = [
    (method, pattern, scope)
    for method, pattern, scope in itertools.product(METHODS, PATTERNS, ("tensor", "global"))
    if not (method == "hard-concrete" and pattern == "2:4")
    and not (METHODS[method].get("penalty") and scope == "global")
]


def kind_of(pattern: str) -> Kind:
    return KINDS["Conv2d" if pattern in ("filter", "channel") else "BERT"]


def build(kind: Kind) -> nn.Module:
    model = kind.build().double()
    with torch.no_grad():  # no equal weights and no zeros: those have tests of their own
        for parameter in model.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())) * 0.05
            )
    return model


def cubic(start: float, end: float, step: int) -> float:
    progress = min(max((step - BEGIN) / (END - BEGIN), 0.0), 1.0)
    return end + (start - end) * (1 - progress) ** 3


def call(kind: Kind, step: int, run: Callable[..., Any]) -> Tensor:
    """Return the loss of a step; `run` computes with the model."""
    inputs = kind.inputs(torch.Generator().manual_seed(100 + step))
    output = run(**inputs) if isinstance(inputs, dict) else run(inputs.double())
    return ((output if isinstance(output, Tensor) else output[0]) - 0.3).square().mean()


def user(model: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.05)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (STEPS + 5))


def recipe_of(method: str, pattern: str, scope: str) -> Recipe:
    spec = METHODS[method]
    amount = f"penalty: {spec['penalty']}" if "penalty" in spec else "sparsity: 0.5"
    latent = ", masking: latent" if method.startswith("magnitude") else ""
    return Recipe.parse(
        "version: 1\nmodifiers:\n"
        f"  - {{type: prune, criterion: {spec['criterion']}, pattern: {PATTERNS[pattern][0]}, scope: {scope}, {amount}, "
        f"{'targets: [' + ', '.join(map(repr, CONVOLUTIONS)) + '], ' if pattern in ('filter', 'channel') else ''}"
        f"window: {{begin: {BEGIN}, end: {END}, every: {EVERY}}}{latent}}}\n"
    )


def advance(reference: Reference, spec: dict[str, Any], step: int) -> None:
    """Make the masks that are due after `step` steps."""
    if not (BEGIN <= step <= END and (step - BEGIN) % EVERY == 0):
        return
    tau = cubic(0.0, 0.1, step)
    if "penalty" not in spec:
        reference.prune(cubic(0.0, 0.5, step))
    elif reference.method == "hard-concrete":
        reference.threshold(-math.log(11), 0.005)
    else:
        reference.threshold(math.log(tau / (1 - tau)) if tau else -math.inf, 0.02)


@pytest.mark.parametrize(("method", "pattern", "scope"), CASES)
def test_twenty_steps(method: str, pattern: str, scope: str) -> None:
    spec = METHODS[method]
    kind = kind_of(pattern)
    ours, theirs = build(kind), build(kind)
    optimizer, scheduler = user(ours)
    manager = Manager(recipe_of(method, pattern, scope)).apply(ours, optimizer, total_steps=STEPS)
    (plan,), (run,) = manager.plan.modifiers, manager._runs
    assert isinstance(plan, PrunePlan)
    groups = PATTERNS[pattern][1](theirs)
    for group, bundle in zip(groups, plan.competition.bundles, strict=True):
        group.name = bundle.name
    reference = Reference(
        theirs,
        groups,
        method=spec.get("method", "hard"),
        together=scope == "global",
        start=spec.get("start", lambda relative: relative),
        learning_rate=spec["rate"],
        optimizer=spec.get("optimizer", "adam"),
        max_norm=spec.get("max_norm"),
    )
    other, other_scheduler = user(theirs)
    changed = returned = 0
    before: dict[str, Tensor] = {}
    for step in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        call(kind, step, ours).backward()
        manager.on_before_optimizer_step()
        manager.clip_grad_norm_(0.5)
        optimizer.step()
        manager.on_step_end()
        scheduler.step()
        penalty = cubic(0.0, spec.get("penalty", 0.0), step)
        rate = other_scheduler.get_last_lr()[0] / 0.01 if spec.get("follow", True) else 1.0
        learning = step < END
        if learning or reference.method != "hard-concrete":
            loss_of = partial(call, kind, step)
            reference.step(step, loss_of, other, rate, 0.5, penalty if learning else 0.0)
        other_scheduler.step()
        if learning:
            advance(reference, spec, step + 1)
        elif reference.method == "hard-concrete":
            break  # the gates have become part of the weights
        shown = reference.evaluated()
        for group, bundle in zip(groups, plan.competition.bundles, strict=True):
            for name, owner in group.owners.items():
                mask = group.mask[owner]
                if step + 1 >= BEGIN:
                    assert torch.equal(masks_of(manager)[name], mask), (step, name)
                    returned += int((mask & ~before.get(name, mask)).sum())
                    changed += int((mask != before.get(name, mask)).sum())
                    before[name] = mask
                torch.testing.assert_close(ours.get_parameter(name).detach(), shown[name], rtol=0, atol=1e-10)
            if isinstance(run, LearnedRun) and run.alive:
                torch.testing.assert_close(run.scores[bundle.name].tiles, group.scores.detach(), rtol=0, atol=1e-10)
    assert changed
    assert any(not bool(mask.all()) for mask in before.values())
    if reference.method == "hard" and pattern == "unstructured":
        assert returned, "masked weights come back"
    if learning:
        return
    for name, parameter in theirs.named_parameters():
        if all(name not in group.owners for group in groups) and reference.method != "hard-concrete":
            torch.testing.assert_close(ours.get_parameter(name), parameter, rtol=0, atol=1e-10)
