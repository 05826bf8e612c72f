"""What `apply` looks at before it starts, and several managers in one process."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify import HookError, Manager, PlanError, Recipe, SparsityError, StateError
from sparsify.modifiers.contract import Run
from sparsify.transaction import PATIENCE
from tests.loop import STEPS, WEIGHTS, adamw, latent_of, loss_of, recipe, train, zeros


def test_a_binding_that_is_not_required_may_be_left_out(mlp: nn.Module) -> None:
    text = "version: 1\nbindings: {teacher: {required: false}}\n" + recipe().dump().removeprefix("version: 1\n")
    Manager(Recipe.parse(text)).apply(mlp, adamw(mlp), total_steps=STEPS)


def test_weights_that_are_not_there_are_refused() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(PlanError, match=r"0\.weight, 1\.weight: the weights are not there \(on the meta device"):
        Manager(recipe()).apply(model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=STEPS)


def test_what_no_optimizer_trains_is_pruned_and_noted_unless_it_is_frozen(mlp: nn.Module) -> None:
    optimizer = adamw(mlp[2:])
    mlp[0].weight.requires_grad_(False)
    assert not Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS).plan.notes
    mlp[0].weight.requires_grad_(True)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    assert manager.plan.notes == ("0.weight: pruned, but trained by no optimizer given to apply()",)
    before = mlp[0].weight.detach().clone()
    train(mlp, optimizer, manager, range(STEPS))
    assert manager.finalize().targeted.sparsity == 0.75
    kept = mlp[0].weight != 0
    assert torch.equal(mlp[0].weight[kept], before[kept])


def test_a_manager_over_other_weights_ends_the_step_that_another_left_open(mlp: nn.Module) -> None:
    """It must find the model under its masks, not what the other has made ready for its optimizer."""
    one, other = torch.optim.SGD(mlp[0].parameters(), lr=0.01), torch.optim.SGD(mlp[2:].parameters(), lr=0.01)
    first = Manager(recipe(targets='"0"', masking="latent")).apply(mlp, one, total_steps=STEPS)
    train(mlp, one, first, range(6))
    before = zeros(mlp, "0.weight")
    assert before
    first.on_step_begin()
    loss_of(mlp, 0).backward()
    first.on_before_optimizer_step()
    assert zeros(mlp, "0.weight") == 0
    Manager(recipe(targets='["2", "4"]')).apply(mlp, other, total_steps=STEPS)
    assert zeros(mlp, "0.weight") == before
    train(mlp, one, first, range(6, STEPS))
    first.finalize()


@pytest.mark.parametrize("phase", ["idle", "open", "ready"])
def test_a_manager_over_the_same_weights_ends_the_other(phase: str, mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    first = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    if phase != "idle":
        first.on_step_begin()
    if phase == "ready":
        loss_of(mlp, 0).backward()
        first.on_before_optimizer_step()
    second = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    with pytest.raises(HookError, match="after another manager was applied to the same weights"):
        first.on_step_end()
    train(mlp, optimizer, second, range(STEPS))
    second.finalize()


def attempt(model: nn.Module, manager: Manager, gradients: bool) -> None:
    """A step whose optimizer is another one."""
    manager.on_step_begin()
    model.zero_grad()
    if gradients:
        loss_of(model, 0).backward()
    manager.on_before_optimizer_step()
    manager.on_step_end()


def test_an_optimizer_that_never_steps_is_an_error_after_eight_times_in_a_row(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    for _ in range(PATIENCE - 1):
        attempt(mlp, manager, True)
    train(mlp, optimizer, manager, range(1))
    for _ in range(PATIENCE - 1):
        attempt(mlp, manager, True)
    with pytest.raises(HookError, match="8 times in a row on_step_end"):
        attempt(mlp, manager, True)
    train(mlp, optimizer, manager, range(1, STEPS))
    manager.finalize()


def test_without_gradients_nobody_knows_whether_a_step_was_skipped(mlp: nn.Module) -> None:
    manager = Manager(recipe()).apply(mlp, adamw(mlp), total_steps=STEPS)
    for _ in range(PATIENCE**2 - 1):
        attempt(mlp, manager, False)
    with pytest.raises(HookError, match="times in a row on_step_end"):
        attempt(mlp, manager, False)


@pytest.mark.parametrize("late", [False, True])
def test_scores_without_gradients_are_an_error_after_eight_steps_in_a_row(late: bool, mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(criterion="movement")).apply(mlp, optimizer, total_steps=40)
    if late:
        train(mlp, optimizer, manager, range(2))
    for step in range(PATIENCE):
        manager.on_step_begin()
        optimizer.zero_grad()
        manager.on_before_optimizer_step()
        optimizer.step()
        if step < PATIENCE - 1:
            manager.on_step_end()
            continue
        with pytest.raises(HookError, match="found none in 8 steps"):
            manager.on_step_end()


@pytest.mark.parametrize("phase", ["open", "ready"])
def test_a_state_that_is_loaded_ends_the_step_under_way(phase: str, mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(4))
    state = manager.state_dict()
    manager.on_step_begin()
    if phase == "ready":
        loss_of(mlp, 0).backward()
        manager.on_before_optimizer_step()
    manager.load_state_dict(state)
    with pytest.raises(HookError, match="outside a step: call on_step_begin"):
        manager.on_before_optimizer_step()
    train(mlp, optimizer, manager, range(4, STEPS))
    manager.finalize()


def test_a_modifier_that_a_changed_recipe_adds_begins_where_the_state_is(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    state = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS).state_dict()
    manager = Manager(recipe(criterion="movement", name="other")).apply(mlp, optimizer, total_steps=STEPS)
    with pytest.warns(UserWarning, match="start again from the masks: other"):
        manager.load_state_dict(state, allow_changed_recipe=True)
    assert torch.equal(latent_of(manager, "0.weight").tensor, mlp[0].weight)
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()


def several(*modifiers: str) -> Recipe:
    return Recipe.parse("version: 1\nmodifiers:\n" + "".join(f"  - {{type: prune, {text}}}\n" for text in modifiers))


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_the_target_is_that_of_the_last_modifier_of_a_weight(scope: str, mlp: nn.Module) -> None:
    """Where a budget is shared, what is left of it counts in proportion."""
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.01)
    found = several(
        f'name: a, targets: "*", scope: {scope}, sparsity: {{to: 0.5, curve: linear}}, window: {{begin: 0, end: 4}}',
        'name: b, targets: ["0"], sparsity: {from: existing, to: 0.75, curve: linear}, window: {begin: 6, end: 10}',
    )
    manager = Manager(found).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(2))
    assert manager.target == pytest.approx(0.25)
    train(mlp, optimizer, manager, range(2, STEPS))
    elements = {name: mlp.get_parameter(name).numel() for name in WEIGHTS}
    wanted = 0.75 * elements["0.weight"] + 0.5 * (elements["2.weight"] + elements["4.weight"])
    assert manager.target == pytest.approx(wanted / sum(elements.values()))
    manager.finalize()


def test_a_modifier_sees_what_those_before_it_made_in_the_same_step(mlp: nn.Module) -> None:
    fields = "masking: latent, sparsity: 0.5, window: {begin: 0, end: 6}"
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.01)
    manager = Manager(several(f'name: a, targets: "0", {fields}', f'name: b, targets: "2", {fields}'))
    manager.apply(mlp, optimizer, total_steps=STEPS)
    second, seen = manager._runs[1], []
    update = second.update

    def looking(step: int) -> None:
        seen.append(zeros(mlp, "0.weight"))
        update(step)

    second.update = looking  # type: ignore[method-assign]
    for step in range(1, 5):
        train(mlp, optimizer, manager, range(step, step + 1))
        assert seen[-1] == zeros(mlp, "0.weight") > 0


def test_weights_without_a_target_count_as_they_are(mlp: nn.Module) -> None:
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.01)
    gates = "criterion: {type: soft-movement, learning_rate: 0.3}, penalty: 100"
    found = several(
        f'name: a, targets: ["0"], {gates}, window: {{begin: 0, end: 4}}',
        'name: b, targets: ["2"], sparsity: 0.5, window: {begin: 0, end: 4}',
    )
    manager = Manager(found).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(STEPS))
    assert zeros(mlp, "0.weight")
    assert manager.target == pytest.approx((zeros(mlp, "0.weight") + 128) / (512 + 256))


def test_a_run_enters_and_leaves_its_stage_once(mlp: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    for name in ("enter", "leave"):
        monkeypatch.setattr(Run, name, lambda self, step, name=name: told.append((name, self.plan.stage.begin, step)))
    one = '[{type: penalty, targets: "*", norm: l2, strength: 0.01}]'
    text = f"version: 1\nstages:\n  - {{name: a, length: 5, modifiers: {one}}}\n  - {{name: b, modifiers: {one}}}\n"
    optimizer = adamw(mlp)
    manager = Manager(Recipe.parse(text)).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(STEPS))
    assert told == [("enter", 0, 0), ("leave", 0, 5), ("enter", 5, 5), ("leave", 5, STEPS)]


def silent_step(model: nn.Module, optimizer: torch.optim.Optimizer, manager: Manager) -> None:
    manager.on_step_begin()
    optimizer.zero_grad()
    manager.on_before_optimizer_step()
    optimizer.step()
    manager.on_step_end()


def test_gradients_may_be_missing_now_and_then_but_not_always(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(criterion="movement")).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(4))
    silent_step(mlp, optimizer, manager)
    silent_step(mlp, optimizer, manager)
    manager.finalize(partial=True)
    manager = Manager(recipe(criterion="movement")).apply(mlp, optimizer, total_steps=STEPS)
    silent_step(mlp, optimizer, manager)
    silent_step(mlp, optimizer, manager)
    with pytest.raises(SparsityError, match="prune needs the gradients of its weights, and never found any"):
        manager.finalize(partial=True)


def test_what_others_write_last_is_kept_and_saved(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(masking="latent")).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(5))
    weight = mlp[0].weight
    place, other = (tuple(each) for each in (weight != 0).nonzero()[:2])
    weight.data[place] = 3.0
    saved = manager.state_dict()["modifiers"]["prune"]["latent"]["0.weight"]
    assert float(saved[place]) == 3.0
    weight.data[other] = 4.0
    manager.finalize(partial=True)
    assert [float(weight.detach()[each]) for each in (place, other)] == [3.0, 4.0]


def test_a_state_of_other_values_under_the_same_zeros_is_refused(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(5))
    state = manager.state_dict()
    mlp[2].weight.data *= 1.5
    with pytest.raises(StateError, match=r"the weights of 2\.weight are not those that this state was saved with"):
        manager.load_state_dict(state)
    manager.load_state_dict(state, verify_weights=False)


@pytest.mark.parametrize(
    ("owners", "message"),
    [
        ([[0, 20, "prune"], [12, 32, "prune"]], "rows 12 to 32 have two owners"),
        ([[0, 32, "other"]], "rows 0 to 32 have two owners, or one that is not here"),
        ([], "nobody owns the mask"),
        ([[0, 33, "prune"]], "rows that the parameter lacks"),
    ],
)
def test_owners_that_cannot_be_are_refused(owners: list[list[object]], message: str, mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(5))
    state = manager.state_dict()
    state["masks"]["0.weight"]["owners"] = owners
    with pytest.raises(StateError, match=message):
        manager.load_state_dict(state)


def test_a_state_of_the_last_step_is_taken_up(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(STEPS))
    state = manager.state_dict()
    for key, value, message in (("attempts", STEPS - 1, "fewer attempts"), ("step", STEPS + 1, ".")):
        wrong = {**state, "clock": {**state["clock"], key: value}}
        with pytest.raises(StateError, match=message):
            manager.load_state_dict(wrong)
    manager.load_state_dict(state)
    manager.finalize()


@pytest.mark.parametrize("masking", ["project", "latent"])
def test_another_optimizer_is_noticed_at_once(masking: str, mlp: nn.Module) -> None:
    manager = Manager(recipe(masking=masking)).apply(mlp, adamw(mlp), total_steps=STEPS)
    manager.on_step_begin()
    loss_of(mlp, 0).backward()
    manager.on_before_optimizer_step()
    adamw(mlp).step()
    with pytest.raises(HookError, match="the weights were changed, but not by the AdamW given to apply"):
        manager.on_step_end()


@pytest.mark.parametrize("within", [False, True])
def test_what_others_write_between_steps_is_trained_on(within: bool, mlp: nn.Module) -> None:
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.0)
    manager = Manager(recipe(masking="latent")).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(4))
    if within:
        manager.on_step_begin()
    place = tuple((mlp[0].weight != 0).nonzero()[0])
    mlp[0].weight.data[place] = 3.0
    train(mlp, optimizer, manager, range(4, 6))
    assert float(mlp[0].weight.detach()[place]) == float(latent_of(manager, "0.weight").tensor[place]) == 3.0


def test_a_wrong_value_of_a_modifier_is_refused(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(5))
    state = manager.state_dict()
    state["modifiers"]["prune"]["done"] = 6
    with pytest.raises(StateError, match="done"):
        manager.load_state_dict(state)


def test_after_a_stray_step_the_model_is_under_its_masks(mlp: nn.Module) -> None:
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1, momentum=0.9)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(5))
    before = zeros(mlp, "0.weight")
    loss_of(mlp, 5).backward()
    optimizer.step()
    assert zeros(mlp, "0.weight") == before > 0


def test_detaching_keeps_a_step_that_happened(mlp: nn.Module) -> None:
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    manager = Manager(recipe(masking="latent")).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(5))
    kept = mlp[0].weight.detach().clone()
    manager.on_step_begin()
    optimizer.zero_grad()
    loss_of(mlp, 5).backward()
    manager.on_before_optimizer_step()
    optimizer.step()
    stepped = mlp[0].weight.detach().clone()
    manager.detach()
    assert torch.equal(mlp[0].weight, stepped * (kept != 0))
    assert not torch.equal(mlp[0].weight, kept)


def test_a_step_is_skipped_only_where_all_optimizers_were_meant_to(mlp: nn.Module) -> None:
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (mlp[0], mlp[2:])]
    manager = Manager(recipe()).apply(mlp, optimizers, total_steps=STEPS)
    for bad, attempts in (((0,), 0), ((0, 2), 1)):
        manager.on_step_begin()
        mlp.zero_grad()
        loss_of(mlp, 0).backward()
        for index in bad:
            mlp[index].bias.grad[0] = torch.inf
        manager.on_before_optimizer_step()
        manager.on_step_end()
        assert manager.state_dict()["clock"]["attempts"] == attempts
