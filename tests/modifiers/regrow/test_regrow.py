"""What holds at every update, on every kind of layer and in every scope; and where `regrow` meets the rest."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import HookError, Manager, Recipe, SparsityError
from sparsify.errors import ScoreError
from sparsify.masking.store import MaskStore
from sparsify.modifiers.regrow import run as at_work
from tests.layers import KINDS
from tests.loop import adamw, loss_of, masks_of, train
from tests.modifiers.regrow.reference import regrow
from tests.processes import in_two

STEPS = 12
METHODS = {
    "rigl": "sparsity: 0.7, window: {begin: 1, end: 9, every: 2}",
    "set": "sparsity: 0.7, grow: random, start: random, window: {begin: 1, end: 9, every: 2}",
    "granet": "sparsity: {from: 0.2, to: 0.7}, fraction: 0.5, window: {begin: 1, end: 9, every: 2}",
    "ac-dc": "sparsity: 0.7, grow: everything, dense: 2, window: {begin: 1, end: 10, every: 4}",
}
SCOPES = ("tensor", "erk", "global", "{type: global, ceiling: 0.8}", "{type: erk, floor: 0.3}")


def applied(model: nn.Module, fields: str, *others: str, steps: int = STEPS, **more: Any) -> tuple[Any, Manager]:
    text = regrow(fields) + "".join(f"  - {{{other}}}\n" for other in others)
    optimizer = more.pop("optimizer", adamw)(model)
    return optimizer, Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=steps, **more)


def wanted(manager: Manager, step: int) -> list[tuple[list[str], int]]:
    """Return (names, zeros) of every budget at an update."""
    run: Any = manager._runs[0]
    competition, sparsity = run.competition, run.spec.sparsity.at(run.plan.window.progress(step))
    shares = [share for arena in competition.arenas for share in competition.shares(arena, sparsity)]
    names = [[part.weight.name for i in share.members for part in competition.bundles[i].parts] for share in shares]
    return list(zip(names, map(competition.asked, shares), strict=True))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("method", ["rigl", "set", "granet"])
def test_the_count_is_exact_at_every_update_in_every_scope(method: str, scope: str, tiny_chunks: None) -> None:
    check_counts(method, scope, "Linear")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Linear"])
@pytest.mark.parametrize(("method", "scope"), [("rigl", "global"), ("set", "erk"), ("granet", "erk")])
def test_the_count_is_exact_at_every_update_on_every_layer(method: str, scope: str, kind: str) -> None:
    check_counts(method, scope, kind)


def check_counts(method: str, scope: str, kind: str) -> None:
    layer = KINDS[kind]
    model = layer.build()
    targets = "" if layer.targets is None else f"targets: {list(layer.targets)}, "
    text = f"version: 1\nmodifiers:\n  - {{type: regrow, {targets}scope: {scope}, {METHODS[method]}}}\n"
    optimizer = adamw(model)
    manager = Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=STEPS)
    before: dict[str, Tensor] = {}
    exchanged = 0
    for step in range(1, STEPS + 1):
        layer.step(model, optimizer, manager, step - 1)
        masks = {w.name: manager._masks.of(w).clone() for w in manager.plan.targeted() if w in manager._masks}  # type: ignore[union-attr]
        for names, zeros in wanted(manager, step) if step in (1, 3, 5, 7, 9) else ():
            more = sum(int((~mask_of(manager, name)).sum()) for name in names) - zeros
            assert more in ((0, 1) if "floor" in scope else (0,)), (step, names)  # floors are rounded up
        for name, mask in masks.items():
            grown, was = mask & ~before.get(name, mask), before.get(name, mask)
            assert step in (1, 3, 5, 7, 9) or torch.equal(mask, was), "between updates nothing changes"
            exchanged += int(grown.sum())
        before = masks
    assert exchanged
    density = manager.finalize()
    assert density.targeted.sparsity >= 0.7 - 1e-2
    found = {weight.name: mask_of(manager, weight.name) for weight in manager.plan.modifiers[0].weights}
    for mask in found.values():
        assert "ceiling" not in scope or float((~mask).double().mean()) <= 0.8
        assert "floor" not in scope or float((~mask).double().mean()) >= 0.3 - 0.5 / mask.numel()


def mask_of(manager: Manager, name: str) -> Tensor:
    mask = manager._masks.of(manager._runs[0].weights[name])  # type: ignore[attr-defined]
    assert mask is not None
    return mask


@pytest.mark.parametrize("optimizer", [
    lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
    lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True),
    lambda model: torch.optim.RMSprop(model.parameters(), lr=0.01, momentum=0.9),
    lambda model: torch.optim.Rprop(model.parameters(), lr=0.01),
    lambda model: torch.optim.Adafactor(model.parameters(), lr=0.01),
])  # fmt: skip
def test_what_grows_begins_at_zero_with_moments_of_zero(optimizer: Callable[[nn.Module], Any], mlp: nn.Module) -> None:
    mine, manager = applied(mlp, METHODS["rigl"] + ", scope: tensor", optimizer=optimizer)
    train(mlp, mine, manager, range(2))
    before = {name: mask.clone() for name, mask in masks_of(manager).items()}
    train(mlp, mine, manager, range(2, 3))
    for name, mask in masks_of(manager).items():
        grown, parameter = mask & ~before[name], mlp.get_parameter(name)
        assert bool(grown.any())
        assert not bool(parameter[grown].any())
        for key, value in mine.state[parameter].items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                assert bool(value[grown].any()) == (key == "step_size"), key
                assert bool(value[mask & ~grown].any()), f"{key} of what stays is kept"
            elif key == "step":
                assert float(value) == 3
    train(mlp, mine, manager, range(3, 4))
    for name, mask in masks_of(manager).items():
        grown = mask & ~before[name]
        assert bool(mlp.get_parameter(name)[grown].any()), "it is trained from the next step on"


def test_in_a_dense_phase_the_sparse_copy_is_what_a_compression_would_leave(mlp: nn.Module) -> None:
    """SPEC K: evaluated within it, the model is sparse at any step; afterwards the dense weights are back."""
    optimizer, manager = applied(mlp, METHODS["ac-dc"])
    seen = []
    for step in range(1, STEPS + 1):
        train(mlp, optimizer, manager, range(step - 1, step))
        before = {name: value.clone() for name, value in mlp.state_dict().items()}
        sparse = manager.sparsity > 0
        with manager.sparse_copy():
            inside = {w.name: w.tensor.clone() for w in manager.plan.targeted()}
        assert all(torch.equal(value, before[name]) for name, value in mlp.state_dict().items())
        seen.append("sparse" if sparse else "dense")
        for name, value in inside.items():
            assert int((value == 0).sum()) == next(zeros for names, zeros in wanted(manager, step) if names == [name])
            kept = value != 0
            assert torch.equal(value[kept], before[name][kept])
            assert not bool((before[name][~kept].abs() > value[kept].abs().min()).any()), "the largest are kept"
    assert {"dense", "sparse"} <= set(seen)


def test_dense_phases_are_dense_and_forget_momentum(mlp: nn.Module) -> None:
    optimizer, manager = applied(mlp, METHODS["ac-dc"])
    seen = []
    for step in range(STEPS):
        train(mlp, optimizer, manager, range(step, step + 1))
        zeros = sum(int((mlp.get_parameter(f"{index}.weight") == 0).sum()) for index in (0, 2, 4))
        moments = float(optimizer.state[mlp.get_parameter("0.weight")]["exp_avg"].abs().sum())
        seen.append((manager.sparsity > 0, zeros > 500, moments > 0))
        assert manager.sparsity == pytest.approx(manager.target or 0, abs=1e-3)
    sparse = [1, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1]  # compressed from 1 and 5 on, the rest of the window is dense
    assert [masked for masked, _, _ in seen] == [bool(each) for each in sparse]
    fresh = (2, 6)  # what was pruned is still zero right after it was let go of
    assert [zero for _, zero, _ in seen] == [bool(each) or index in fresh for index, each in enumerate(sparse)]
    assert [index for index, (_, _, moments) in enumerate(seen) if not moments] == list(fresh)
    assert manager.last_update == 10
    manager.finalize()


@pytest.mark.parametrize("stop", range(STEPS))
@pytest.mark.parametrize("method", METHODS)
def test_a_resume_at_every_step(method: str, stop: int, mlp: nn.Module) -> None:
    other = copy.deepcopy(mlp)
    once = "type: prune, name: p, targets: '0', sparsity: {to: 0.2, curve: one-shot}, window: {begin: 0}"

    def start(model: nn.Module) -> tuple[Any, Manager]:
        text = f"version: 1\nmodifiers:\n  - {{{once}}}\n" + regrow(METHODS[method]).partition("modifiers:\n")[2]
        optimizer = adamw(model)
        return optimizer, Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=STEPS)

    optimizer, manager = start(mlp)
    train(mlp, optimizer, manager, range(stop))
    saved = [copy.deepcopy(each.state_dict()) for each in (mlp, optimizer, manager)]
    train(mlp, optimizer, manager, range(stop, STEPS))
    again, resumed = start(other)
    for part, state in zip((other, again, resumed), saved, strict=True):
        part.load_state_dict(state)
    train(other, again, resumed, range(stop, STEPS))
    manager.finalize()
    resumed.finalize()
    assert manager._runs[1].report() == resumed._runs[1].report()
    for mine, theirs in zip(mlp.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("place", ["set", "moments"])
@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_update_is_made_once(
    method: str, call: int, place: str, mlp: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its decision stands: what was dropped before the interruption is not dropped again on top."""
    other = copy.deepcopy(mlp)
    fields = METHODS[method] + ", scope: tensor"
    optimizer, manager = applied(mlp, fields)
    train(mlp, optimizer, manager, range(2))
    calls = [0]

    def breaking(real: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == call:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return wrapped

    with monkeypatch.context() as patched:
        if place == "set" and method != "ac-dc":
            patched.setattr(MaskStore, "set", breaking(MaskStore.set))
        else:
            patched.setattr(at_work, "clear_moments", breaking(at_work.clear_moments))
        with pytest.raises(KeyboardInterrupt):
            train(mlp, optimizer, manager, range(2, 3))
        manager.state_dict()  # people save then
    train(mlp, optimizer, manager, range(3, STEPS))
    manager.finalize()
    mine, control = applied(other, fields)
    train(other, mine, control, range(STEPS))
    for one, two in zip(mlp.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_gradients_that_are_no_numbers(mlp: nn.Module) -> None:
    """They are named; the model stays under its masks, and the next exchange is made."""
    optimizer, manager = applied(mlp, METHODS["rigl"], optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.01))
    train(mlp, optimizer, manager, range(2))
    before = masks_of(manager)
    manager.on_step_begin()
    optimizer.zero_grad()
    loss_of(mlp, 2).backward()
    mlp[0].weight.grad[~before["0.weight"]] = torch.nan
    manager.on_before_optimizer_step()
    optimizer.step()
    with pytest.raises(ScoreError, match=r"the gradient of 0\.weight: the scores hold NaN"):
        manager.on_step_end()
    for name, mask in masks_of(manager).items():
        assert torch.equal(mask, before[name])
        assert not bool(mlp.get_parameter(name)[~mask].any())
    train(mlp, optimizer, manager, range(3, STEPS))
    assert manager.finalize().targeted.sparsity >= 0.7 - 1e-3


def test_a_tensor_without_a_gradient_keeps_its_mask(mlp: nn.Module) -> None:
    optimizer, manager = applied(mlp, METHODS["rigl"] + ", scope: tensor")
    train(mlp, optimizer, manager, range(2))
    before = {name: mask.clone() for name, mask in masks_of(manager).items()}
    manager.on_step_begin()
    optimizer.zero_grad()
    loss_of(mlp, 2).backward()
    mlp[0].weight.grad = None
    manager.on_before_optimizer_step()
    optimizer.step()
    manager.on_step_end()
    after = masks_of(manager)
    assert torch.equal(after["0.weight"], before["0.weight"])
    assert not torch.equal(after["2.weight"], before["2.weight"])
    for name, mask in after.items():
        assert int(mask.sum()) == int(before[name].sum())


def test_no_gradients_at_all_are_an_error(mlp: nn.Module) -> None:
    optimizer, manager = applied(mlp, "sparsity: 0.7, window: {every: 2}", steps=40)

    def step() -> None:
        manager.on_step_begin()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()

    for _ in range(15):  # the exchanges after steps 2, 4, … 14 find none; nor does the eighth
        step()
    with pytest.raises(HookError, match="needs the gradients of its weights, and found none in 8 steps"):
        step()


@pytest.mark.parametrize("method", METHODS)
def test_the_last_update_that_a_skipped_step_prevented(method: str, mlp: nn.Module) -> None:
    """It is made without gradients: the budget is met, nothing is exchanged."""
    fields = METHODS[method].replace("end: 9", "end: 12").replace("end: 10", "end: 12")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    optimizer, manager = applied(mlp, fields + ", scope: tensor", scaler=scaler)
    for attempt in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        scaler.scale(loss_of(mlp, attempt)).backward()  # type: ignore[no-untyped-call]
        if attempt == STEPS - 1:
            mlp[0].weight.grad.fill_(torch.inf)
        manager.on_before_optimizer_step()
        scaler.step(optimizer)
        scaler.update()
        manager.on_step_end()
    assert manager.step == STEPS - 1
    density = manager.finalize()
    for name, count in density.tensors.items():
        assert count.elements - count.nonzeros >= round(0.7 * count.elements), name


@pytest.mark.parametrize(("steps", "sparse"), [(3, True), (5, False), (6, True)])
def test_a_training_that_ends_in_a_phase(steps: int, sparse: bool, mlp: nn.Module) -> None:
    """Ended early in a dense phase, nothing is missing of what was asked for by then."""
    fields = "sparsity: 0.7, grow: everything, dense: 2, window: {begin: 2, end: 11, every: 4}"
    optimizer, manager = applied(mlp, fields)
    train(mlp, optimizer, manager, range(steps))
    with pytest.raises(SparsityError, match="the recipe's last update is due at step 11"):
        manager.finalize()
    assert manager.finalize(partial=True).targeted.sparsity == pytest.approx(0.7 if sparse else 0.0, abs=0.1)


def test_the_lot_is_another_at_every_step_and_seed(mlp: nn.Module) -> None:
    found = []
    for seed in (0, 1):
        model = copy.deepcopy(mlp)
        optimizer, manager = applied(
            model, f"sparsity: 0.5, grow: random, start: random, seed: {seed}, scope: tensor, window: {{every: 1}}"
        )
        for step in range(3):
            found.append(masks_of(manager)["0.weight"].clone())
            train(model, optimizer, manager, range(step, step + 1))
    assert all(not torch.equal(one, other) for index, one in enumerate(found) for other in found[:index])


# ---------------------------------------------------------------------- beside others

PRUNED = "type: prune, name: p, targets: '*', sparsity: {to: 0.5, curve: one-shot}, window: {begin: 0}"


@pytest.mark.parametrize("existing", ["stay", "grow"])
@pytest.mark.parametrize("method", METHODS)
def test_what_was_pruned_before(method: str, existing: str, mlp: nn.Module) -> None:
    """It stays pruned, in dense phases too; or, where the recipe says so, it may grow."""
    fields = METHODS[method].replace("from: 0.2", "from: 0.5") + f", existing: {existing}, scope: tensor"
    text = f"version: 1\nmodifiers:\n  - {{{PRUNED}}}\n" + regrow(fields).partition("modifiers:\n")[2]
    optimizer = adamw(mlp)
    manager = Manager(Recipe.parse(text)).apply(mlp, optimizer, total_steps=STEPS)
    before = {name: mask.clone() for name, mask in masks_of(manager).items()}
    returned = 0
    for step in range(STEPS):
        train(mlp, optimizer, manager, range(step, step + 1))
        for name, mask in before.items():
            returned += int((mlp.get_parameter(name)[~mask] != 0).sum())
            zeros = int((mlp.get_parameter(name) == 0).sum())
            assert existing == "grow" or zeros >= mask.numel() // 2
    assert (returned > 0) == (existing == "grow")
    assert manager.finalize().targeted.sparsity >= 0.7 - 1e-2


def test_what_is_frozen_is_dropped_and_what_grows_stays_zero(mlp: nn.Module) -> None:
    start = mlp[0].weight.detach().clone()
    optimizer, manager = applied(mlp, METHODS["rigl"] + ", scope: tensor", 'type: freeze, targets: "0"')
    train(mlp, optimizer, manager, range(2))
    first = masks_of(manager)["0.weight"].clone()
    train(mlp, optimizer, manager, range(2, STEPS))
    manager.finalize()
    last = masks_of(manager)["0.weight"]
    assert bool((last & ~first).any())
    kept = mlp[0].weight != 0
    assert torch.equal(mlp[0].weight, start * kept)
    assert not bool((kept & ~(first & last)).any())


def test_two_processes_make_one_result() -> None:
    """Gradients are those that DDP has reduced, and a lot is the same everywhere."""
    done = in_two("ddp_masks", "regrow")
    found = re.findall(r"rank \d ([\w-]+): weights (\S+), mask bits (\d+)", done.stdout)
    assert sorted(name for name, _, _ in found) == sorted([*METHODS, *METHODS]), done.stderr
    assert all(float(worst) < 1e-12 and bits == "0" for _, worst, bits in found)
