"""`rewind`: lottery tickets against a slow reference, with every kind of masking."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import Manager, Plan, PlanError, Recipe, StateError
from sparsify.modifiers.rewind import Rewind
from tests.loop import loss_of
from tests.modifiers.distill.students import batch, bert

STEPS, ROUND, START = 12, 3, 1
WEIGHTS = ("0.weight", "2.weight", "4.weight")
PRUNE = (
    '  - {type: prune, targets: "*", scope: global, sparsity: {from: 0.2, to: 0.488, curve: exponential},'
    " window: {begin: 3, end: 9, every: 3}MORE}\n"
)


def recipe(rewind: str = "every: 3, to: 1", more: str = "") -> Recipe:
    prune = PRUNE.replace("MORE", more)
    return Recipe.parse(f"version: 1\nmodifiers:\n{prune}  - {{type: rewind, {rewind}}}\n")


class Training:
    def __init__(self, model: nn.Module, text: Recipe, steps: int = STEPS) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        self.manager = Manager(text).apply(model, self.optimizer, total_steps=steps)

    def train(self, until: int) -> Training:
        while self.manager.step < until:
            self.manager.on_step_begin()
            self.optimizer.zero_grad()
            loss_of(self.model, self.manager.step).backward()
            self.manager.on_before_optimizer_step()
            self.optimizer.step()
            self.manager.on_step_end()
        return self


def smallest(weights: dict[str, Tensor], masks: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Return masks of the largest of all together; what is pruned ranks last."""
    flat = torch.cat([(weights[name].abs() * masks[name]).flatten() for name in weights])
    kept = torch.ones_like(flat, dtype=torch.bool)
    kept[flat.sort(stable=True).indices[: round(sparsity * flat.numel())]] = False
    parts = kept.split([value.numel() for value in weights.values()])
    return {name: part.view_as(value) for (name, value), part in zip(weights.items(), parts, strict=True)}


def reference(model: nn.Module) -> nn.Module:
    """Train, prune 20 % of what is left, put the weights of step 1 back, begin the optimizer anew; three times."""
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    masks = {name: torch.ones_like(parameters[name], dtype=torch.bool) for name in WEIGHTS}
    early: dict[str, Tensor] = {}
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        for name, mask in masks.items():
            parameters[name].grad *= mask  # type: ignore[operator]
        optimizer.step()
        with torch.no_grad():
            for name, mask in masks.items():
                parameters[name] *= mask
            if step + 1 == START:
                early = {name: parameter.clone() for name, parameter in parameters.items()}
            if step + 1 in (3, 6, 9):
                masks = smallest({n: parameters[n] for n in WEIGHTS}, masks, 1 - 0.8 ** ((step + 1) // 3))
                for name, parameter in parameters.items():
                    parameter.copy_(early[name])
                for name, mask in masks.items():
                    parameters[name] *= mask
                optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    return model


def test_the_rounds_are_those_of_the_method(mlp: nn.Module) -> None:
    wanted = reference(copy.deepcopy(mlp))
    training = Training(mlp, recipe()).train(STEPS)
    for (name, mine), theirs in zip(mlp.named_parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=1e-5, msg=name)
    assert training.manager.finalize().targeted.sparsity == pytest.approx(0.488, abs=0.01)


@pytest.mark.parametrize("more", ["", ", masking: latent", ", criterion: movement"])
def test_what_is_left_is_what_it_was(mlp: nn.Module, more: str) -> None:
    """Right after a rewind every kept weight has its early value, latent ones too, and no optimizer remembers it."""
    training = Training(mlp, recipe(more=more)).train(START)
    held = training.manager._masks
    early = {name: held.dense(parameter) for name, parameter in mlp.named_parameters()}
    training.train(ROUND)
    for name, parameter in mlp.named_parameters():
        assert torch.equal(parameter[parameter != 0], early[name][parameter != 0])
        assert torch.equal(held.dense(parameter)[parameter != 0], early[name][parameter != 0])
        assert parameter not in training.optimizer.state
        if more:
            assert torch.equal(held.dense(parameter), early[name]) or name not in WEIGHTS
    assert training.manager.sparsity == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("more", ["", ", masking: latent", ", criterion: movement"])
@pytest.mark.parametrize("stop", range(1, STEPS))
def test_a_resumed_training_ends_with_the_same_bits(mlp: nn.Module, stop: int, more: str) -> None:
    other_model, text = copy.deepcopy(mlp), recipe(more=more)
    one = Training(mlp, text).train(stop)
    saved = copy.deepcopy([part.state_dict() for part in (one.model, one.optimizer, one.manager)])  # type: ignore[attr-defined]
    one.train(STEPS)
    other = Training(other_model, text)
    for part, state in zip((other.model, other.optimizer, other.manager), saved, strict=True):
        part.load_state_dict(state)  # type: ignore[attr-defined]
    other.train(STEPS)
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert one.manager._runs[1].report() == other.manager._runs[1].report()


def test_the_task_head_goes_on(mlp: nn.Module) -> None:
    model = bert()
    text = Recipe.parse("version: 1\nmodifiers:\n  - {type: prune, sparsity: 0.5}\n  - {type: rewind, every: 2}\n")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = Manager(text).apply(model, optimizer, total_steps=6)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for step in range(2):
        manager.on_step_begin()
        optimizer.zero_grad()
        model(**batch(step)).loss.backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    moved = {
        name
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter[parameter != 0], before[name][parameter != 0])
    }
    assert moved == {"classifier.weight", "classifier.bias"} | {name for name in before if "pooler" in name}


def test_tickets_are_reported(mlp: nn.Module) -> None:
    training = Training(mlp, recipe()).train(STEPS)
    found = training.manager._runs[1].report()
    first, second, third = found["tickets"]
    assert [each["step"] for each in found["tickets"]] == [3, 6, 9]
    assert third["overlap"] == pytest.approx(0.8, abs=0.01)
    assert first["density"] == pytest.approx(0.8, abs=0.01)
    assert second["density"] == pytest.approx(0.64, abs=0.01)
    assert first["overlap"] is None
    assert second["overlap"] == pytest.approx(0.8, abs=0.01), "nested: 0.64 / 0.8"
    assert Rewind.findings(found)[1].startswith("ticket of step 6: 64.")


def test_named_parameters_alone(mlp: nn.Module) -> None:
    training = Training(mlp, recipe('every: 3, targets: "0"'))
    before = {name: parameter.detach().clone() for name, parameter in mlp.named_parameters()}
    training.train(ROUND)
    back = {n for n, p in mlp.named_parameters() if torch.equal(p[p != 0], before[n][p != 0])}
    assert back == {"0.weight", "0.bias"}


@pytest.mark.parametrize(
    ("rewind", "message"),
    [
        ("every: 12", r"one round takes 12 steps, and the last rewind comes before: nothing is rewound"),
        ("every: 4, end: 3", r"one round takes 4 steps, and the last rewind comes before: nothing is rewound"),
        ("every: 3, to: 3", r"the step to go back to, 3, lies after the end of the first round, 3"),
        ("every: 1%", r"'1%' of the stage rounds to no step at all"),
        ("every: 3, targets: nothing", r"'nothing' matches nothing in Sequential"),
        ("every: 3, targets: attention", r"Sequential has no 'attention' .it has: default, task_head."),
        ("every: 3, targets: '0', exclude: '*'", r"everything that is targeted is excluded"),
    ],
)
def test_what_cannot_be_rewound(mlp: nn.Module, rewind: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.of(recipe(rewind), mlp, total_steps=STEPS)


def test_states_of_other_rounds_are_refused(mlp: nn.Module) -> None:
    training = Training(mlp, recipe()).train(4)
    state: Any = training.manager.state_dict()
    state["modifiers"]["rewind"]["tickets"] = {}
    with pytest.raises(StateError, match="expected those of 1 rounds"):
        training.manager.load_state_dict(state)


def test_it_ends_before_the_stage_does(mlp: nn.Module) -> None:
    training = Training(mlp, recipe("every: 3, to: 1, end: 7")).train(STEPS)
    assert [each["step"] for each in training.manager._runs[1].report()["tickets"]] == [3, 6]
