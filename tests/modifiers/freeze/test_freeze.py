"""Frozen parameters stay bit for bit as they are, whatever the optimizer, and are trained again afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import HookError, Manager, PlanError, Recipe
from sparsify.errors import RecipeError
from tests.loop import OPTIMIZERS, adamw, latent_of, loss_of, train, zeros

STEPS = 10
FROZEN = ("0.weight", "0.bias")


def recipe_of(*modifiers: str) -> Recipe:
    return Recipe.parse("version: 1\nmodifiers:\n" + "".join(f"  - {{{text}}}\n" for text in modifiers))


def freezing(when: str = "begin: 3, end: 7", targets: str = '"0"') -> str:
    return f"type: freeze, targets: {targets}, {when}"


def muon(parameters: Any) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in parameters if parameter.dim() == 2]
    return torch.optim.Muon(matrices, lr=0.01, momentum=0.9, weight_decay=0.1)


MORE: dict[str, Callable[..., torch.optim.Optimizer]] = {
    **OPTIMIZERS,
    "adamw amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, weight_decay=0.1),
    "muon": muon,
}


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("name", MORE)
def test_within_the_window_nothing_moves(name: str, to_none: bool, mlp: nn.Module) -> None:
    optimizer = MORE[name](list(mlp.parameters()))
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    manager = Manager(recipe_of(freezing())).apply(mlp, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        before = values(mlp)
        states = copy.deepcopy(optimizer.state[mlp.get_parameter("0.weight")])
        manager.on_step_begin()
        optimizer.zero_grad(set_to_none=to_none)
        loss_of(mlp, step).backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
        for each, parameter in mlp.named_parameters():
            if id(parameter) in held:
                still = each in FROZEN and 3 <= step < 7
                assert torch.equal(parameter, before[each]) == still, (step, each)
        if 3 <= step < 7:
            for key, value in optimizer.state[mlp.get_parameter("0.weight")].items():
                assert value is None or bool((torch.as_tensor(value) == states[key]).all()), f"{key} does not wait"
    assert all(parameter.requires_grad for parameter in mlp.parameters())
    manager.finalize()


def test_the_rest_of_the_model_learns_as_if_it_were_not_trainable(mlp: nn.Module) -> None:
    other = copy.deepcopy(mlp)
    optimizer = adamw(mlp)
    manager = Manager(recipe_of(freezing("begin: 0"))).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(STEPS))
    other[0].requires_grad_(False)
    train(other, adamw(other), None, range(STEPS))
    for mine, theirs in zip(mlp.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_it_holds_for_its_stage(mlp: nn.Module) -> None:
    text = (
        "version: 1\nstages:\n  - {name: one, length: 4 steps, modifiers: [{type: freeze, targets: '4'}]}\n"
        "  - {name: two, modifiers: [{type: freeze, targets: '0', begin: 2}]}\n"
    )
    optimizer = adamw(mlp)
    manager = Manager(Recipe.parse(text)).apply(mlp, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        before = values(mlp)
        train(mlp, optimizer, manager, range(step, step + 1))
        still = {name for name, parameter in mlp.named_parameters() if torch.equal(parameter, before[name])}
        assert still == ({"4.weight", "4.bias"} if step < 4 else set(FROZEN) if step >= 6 else set()), step


def test_accumulated_gradients_and_a_step_that_is_skipped(mlp: nn.Module) -> None:
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    manager = Manager(recipe_of(freezing("begin: 2"))).apply(mlp, optimizer, total_steps=STEPS, scaler=scaler)
    attempt = 0
    while manager.step < STEPS:
        before, step = values(mlp), manager.step
        manager.on_step_begin()
        optimizer.zero_grad()
        for part in range(2):
            scaler.scale(loss_of(mlp, 2 * attempt + part)).backward()  # type: ignore[no-untyped-call]
        if attempt == 4:
            mlp.get_parameter("0.weight").grad.fill_(torch.inf)  # type: ignore[union-attr]
        manager.on_before_optimizer_step()
        scaler.step(optimizer)
        scaler.update()
        manager.on_step_end()
        attempt += 1
        for name, parameter in mlp.named_parameters():
            still = attempt == 5 or (name in FROZEN and step >= 2)
            assert torch.equal(parameter, before[name]) == still, (attempt, name)
    assert attempt == STEPS + 1


def test_the_norm_that_is_clipped_is_that_of_what_is_trained(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe_of(freezing("begin: 0"))).apply(mlp, optimizer, total_steps=STEPS)
    manager.on_step_begin()
    loss_of(mlp, 0).backward()
    squares = {name: float(p.grad.square().sum()) for name, p in mlp.named_parameters() if p.grad is not None}
    manager.on_before_optimizer_step()
    norm = manager.clip_grad_norm_(1e-3)
    assert float(norm) ** 2 == pytest.approx(sum(value for name, value in squares.items() if name not in FROZEN))


def test_a_resume_within_the_window(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe_of(freezing())).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(5))
    states = [copy.deepcopy(each.state_dict()) for each in (mlp, optimizer, manager)]
    train(mlp, optimizer, manager, range(5, STEPS))
    other = copy.deepcopy(mlp)
    again = adamw(other)
    resumed = Manager(recipe_of(freezing())).apply(other, again, total_steps=STEPS)
    for part, state in zip((other, again, resumed), states, strict=True):
        part.load_state_dict(state)
    train(other, again, resumed, range(5, STEPS))
    for mine, theirs in zip(mlp.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


# ---------------------------------------------------------------------- beside others

PRUNE = 'type: prune, targets: "0", sparsity: 0.75, window: {begin: 2, end: 8, every: 2}'


@pytest.mark.parametrize("frozen_first", [True, False])
def test_masks_act_on_what_is_frozen(frozen_first: bool, mlp: nn.Module) -> None:
    texts = [freezing("begin: 0"), PRUNE]
    start, optimizer = values(mlp), adamw(mlp)
    manager = Manager(recipe_of(*(texts if frozen_first else texts[::-1]))).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()
    weight = mlp.get_parameter("0.weight")
    assert zeros(mlp, "0.weight") == 384
    assert torch.equal(weight, start["0.weight"] * (weight != 0)), "what is kept is what it was"
    smallest = start["0.weight"].abs().flatten().kthvalue(384).values
    assert torch.equal(weight == 0, start["0.weight"].abs() <= smallest)


@pytest.mark.parametrize("frozen_first", [True, False])
@pytest.mark.parametrize("criterion", ["movement", "soft-movement", "hard-concrete"])
def test_masks_of_frozen_weights_are_learned(criterion: str, frozen_first: bool, mlp: nn.Module) -> None:
    texts = [
        freezing("begin: 0"),
        f'type: prune, name: p, targets: "0", criterion: {{type: {criterion}, learning_rate: 0.1}}, sparsity: 0.75, '
        "window: {begin: 2, end: 8}",
    ]
    start, optimizer = values(mlp), adamw(mlp)
    manager = Manager(recipe_of(*(texts if frozen_first else texts[::-1]))).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(5))
    assert torch.equal(latent_of(manager, "0.weight").tensor, start["0.weight"]), "latent weights stay as they are"
    train(mlp, optimizer, manager, range(5, STEPS))
    manager.finalize()
    weight = mlp.get_parameter("0.weight")
    kept = weight != 0
    if criterion != "hard-concrete":  # whose gates are multiplied into the weights at the end
        assert torch.equal(weight, start["0.weight"] * kept)
    assert not torch.equal(kept, start["0.weight"].abs() > start["0.weight"].abs().flatten().kthvalue(384).values)


@pytest.mark.parametrize("frozen_first", [True, False])
def test_penalties_on_what_is_frozen_do_nothing(frozen_first: bool, mlp: nn.Module) -> None:
    found = []
    for penalised in ('"0"', '"*"'):
        model = copy.deepcopy(mlp)
        texts = [freezing("begin: 0"), f"type: penalty, targets: {penalised}, norm: l1, strength: {{from: 1, to: 1}}"]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        recipe = recipe_of(*(texts if frozen_first else texts[::-1]))
        train(model, optimizer, Manager(recipe).apply(model, optimizer, total_steps=STEPS), range(STEPS))
        found.append(values(model))
    for name in FROZEN:
        assert torch.equal(found[0][name], values(mlp)[name])
        assert torch.equal(found[1][name], values(mlp)[name])
    assert not torch.equal(found[0]["4.weight"], found[1]["4.weight"])


def test_a_second_call_over_the_same_gradients_is_still_noticed(mlp: nn.Module) -> None:
    """Though the first gradient that was read is one of those that are dropped."""
    texts = (freezing("begin: 0"), 'type: penalty, targets: "*", norm: l2, strength: {from: 1, to: 1}')
    manager = Manager(recipe_of(*texts)).apply(mlp, adamw(mlp), total_steps=STEPS)
    manager.on_step_begin()
    loss_of(mlp, 0).backward()
    manager.on_before_optimizer_step()
    with pytest.raises(HookError, match="called again over the same gradients"):
        manager.on_before_optimizer_step()


# ---------------------------------------------------------------------- what cannot be


def test_a_closure_would_make_new_gradients(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe_of(freezing("begin: 0"))).apply(mlp, optimizer, total_steps=STEPS)
    before = values(mlp)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(mlp, 0)
        loss.backward()
        return loss

    manager.on_step_begin()
    closure()
    manager.on_before_optimizer_step()
    with pytest.raises(HookError, match="got a closure"):
        optimizer.step(closure)

    def with_the_hook() -> Tensor:
        loss = closure()
        manager.on_before_optimizer_step()
        return loss

    manager.on_step_begin()
    optimizer.step(with_the_hook)
    manager.on_step_end()
    assert manager.step == 1
    assert torch.equal(mlp.get_parameter("0.weight"), before["0.weight"])


class Decaying(torch.optim.SGD):
    """Decays every parameter, with a gradient or without."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(0.9)
        return super().step(closure)


def test_an_optimizer_that_moves_them_all_the_same_is_named(mlp: nn.Module) -> None:
    optimizer = Decaying(mlp.parameters(), lr=0.1)
    manager = Manager(recipe_of(freezing("begin: 1"))).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(1))
    with pytest.raises(HookError, match=r"0\.weight is frozen, and was written to"):
        train(mlp, optimizer, manager, range(1, 2))


def test_what_a_recipe_cannot_say() -> None:
    with pytest.raises(RecipeError, match="nothing to freeze: name `targets`, or `layers`"):
        Recipe.parse("version: 1\nmodifiers:\n  - {type: freeze}\n")
    with pytest.raises(RecipeError, match="begins at 9 steps, after its end at 3 steps"):
        recipe_of(freezing("begin: 9, end: 3"))


def test_what_a_plan_refuses(mlp: nn.Module) -> None:
    for text, message in (
        ('type: freeze, targets: "1"', "'1' matches only modules without parameters"),
        ("type: freeze, targets: nowhere", "'nowhere' matches nothing"),
        ("type: freeze, layers: 0", "so it has no layers"),
        (freezing("begin: 50%, end: 5 steps"), "it ends when it begins"),
        (freezing("begin: 11"), "lies beyond the stage's 10 steps"),
    ):
        with pytest.raises(PlanError, match=message):
            Manager(recipe_of(text)).apply(mlp, adamw(mlp), total_steps=STEPS)
