"""`masking: admm` against a slow reference, and what is seen of it meanwhile."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import HookError, Manager, PlanError, Recipe, RecipeError
from sparsify.patterns import Pattern
from tests.loop import loss_of

STEPS, END = 9, 8
WEIGHTS = ("0.weight", "2.weight", "4.weight")


def recipe(**fields: str) -> Recipe:
    fields = {
        "targets": '"*"',
        "masking": "admm",
        "scope": "global",
        "sparsity": "{to: 0.75, curve: constant}",
        "penalty": "{from: 0.5, to: 0.5}",
        "window": f"{{begin: 1, end: {END}, every: 2}}",
    } | fields
    body = ", ".join(f"{key}: {value}" for key, value in fields.items() if value)
    return Recipe.parse(f"version: 1\nmodifiers:\n  - {{type: prune, {body}}}\n")


class Training:
    def __init__(self, model: nn.Module, text: Recipe) -> None:
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        self.manager = Manager(text).apply(model, self.optimizer, total_steps=STEPS)

    def train(self, steps: range) -> Training:
        for step in steps:
            self.manager.on_step_begin()
            self.optimizer.zero_grad()
            loss_of(self.model, step).backward()
            self.manager.on_before_optimizer_step()
            self.optimizer.step()
            self.manager.on_step_end()
        return self


def nearest(values: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Return the values with the smallest of all together set to zero."""
    flat = torch.cat([value.abs().flatten() for value in values.values()])
    order = flat.sort(stable=True).indices[: round(sparsity * flat.numel())]
    kept = torch.ones_like(flat, dtype=torch.bool)
    kept[order] = False
    parts = kept.split([value.numel() for value in values.values()])
    return {n: value * part.view_as(value) for (n, value), part in zip(values.items(), parts, strict=True)}


def reference(model: nn.Module) -> list[dict[str, Tensor]]:
    """Return the weights after every step of the method as it is written down, λ = 0.5, k = 2."""
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-2)
    seen: list[dict[str, Tensor]] = []
    z: dict[str, Tensor] = {}
    u: dict[str, Tensor] = {}
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        for name in WEIGHTS if z else ():
            parameters[name].grad += 0.5 * (parameters[name].detach() - z[name] + u[name])
        mask = {name: value != 0 for name, value in z.items()} if step >= END else {}
        for name, kept in mask.items():
            parameters[name].grad *= kept
        optimizer.step()
        done = step + 1
        x = {name: parameters[name].detach() for name in WEIGHTS}
        with torch.no_grad():
            if done == 1:
                z, u = nearest(x, 0.75), {name: torch.zeros_like(x[name]) for name in WEIGHTS}
            elif done < END and (done - 1) % 2 == 0:
                sums = {name: x[name] + u[name] for name in WEIGHTS}
                z = nearest(sums, 0.75)
                u = {name: u[name] + x[name] - z[name] for name in WEIGHTS}
            elif done == END:
                z = nearest({name: x[name] + u[name] for name in WEIGHTS}, 0.75)
                for name in WEIGHTS:
                    parameters[name].copy_(z[name])
                u = {name: torch.zeros_like(value) for name, value in z.items()}
            elif done > END:
                for name in WEIGHTS:
                    parameters[name].mul_(mask[name])
        seen.append({name: parameter.detach().clone() for name, parameter in parameters.items()})
        if done > END:
            break
    return seen


def test_every_step_is_that_of_the_method(mlp: nn.Module) -> None:
    wanted = reference(copy.deepcopy(mlp))[:END]
    training = Training(mlp, recipe())
    for step in range(END):
        training.train(range(step, step + 1))
        for name, parameter in mlp.named_parameters():
            torch.testing.assert_close(
                parameter.detach(), wanted[step][name], atol=1e-7, rtol=1e-5, msg=f"{name} {step}"
            )
    assert training.manager.sparsity == 0.75


def test_the_model_is_dense_until_the_window_ends_and_exactly_sparse_then(mlp: nn.Module) -> None:
    training = Training(mlp, recipe())
    manager = training.manager
    for step in range(END - 1):
        training.train(range(step, step + 1))
        assert manager.sparsity == 0.0, "real zeros"
        assert manager.target is None
        assert all(bool((dict(mlp.named_parameters())[name] != 0).all()) for name in WEIGHTS)
    training.train(range(END - 1, STEPS))
    assert manager.sparsity == manager.target == 0.75
    assert manager.finalize().targeted.sparsity >= 0.75


def test_the_sparse_copy_is_seen_in_a_context(mlp: nn.Module) -> None:
    training = Training(mlp, recipe()).train(range(4))
    dense = {name: p.detach().clone() for name, p in mlp.named_parameters()}
    with training.manager.sparse_copy():
        zeros = sum(int((dict(mlp.named_parameters())[name] == 0).sum()) for name in WEIGHTS)
        assert zeros == round(0.75 * sum(dense[name].numel() for name in WEIGHTS))
        with pytest.raises(HookError, match=r"within sparse_copy\(\): leave it first"):
            training.manager.on_step_begin()
    assert all(torch.equal(p, dense[name]) for name, p in mlp.named_parameters())
    with pytest.raises(ZeroDivisionError), training.manager.sparse_copy():
        raise ZeroDivisionError
    assert all(torch.equal(p, dense[name]) for name, p in mlp.named_parameters())
    training.train(range(4, STEPS))
    with training.manager.sparse_copy():
        assert training.manager.sparsity == 0.75


@pytest.mark.parametrize("stop", range(1, STEPS))
def test_a_resumed_training_ends_with_the_same_bits(mlp: nn.Module, stop: int) -> None:
    other_model = copy.deepcopy(mlp)
    one = Training(mlp, recipe()).train(range(stop))
    saved = copy.deepcopy([part.state_dict() for part in (one.model, one.optimizer, one.manager)])  # type: ignore[attr-defined]
    one.train(range(stop, STEPS))
    other = Training(other_model, recipe())
    for part, state in zip((other.model, other.optimizer, other.manager), saved, strict=True):
        part.load_state_dict(state)  # type: ignore[attr-defined]
    other.train(range(stop, STEPS))
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("scope", ["tensor", "global", "erk", "row"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "row", "column", "{type: block, shape: [4, 2]}"])
def test_any_pattern_and_scope(mlp: nn.Module, pattern: str, scope: str) -> None:
    kind = Pattern.parse(pattern) if not pattern.startswith("{") else None
    if scope == "row" and kind is not None and not kind.by_row:
        pytest.skip("refused: the row scope ranks what is inside a row")
    text = recipe(
        pattern=f'"{pattern}"' if ":" in pattern and kind else pattern,
        scope=scope,
        sparsity="{to: 0.5, curve: constant}",
    )
    training = Training(mlp, text).train(range(STEPS))
    assert training.manager.finalize().targeted.sparsity >= 0.5


def test_what_was_pruned_before_stays_pruned(mlp: nn.Module) -> None:
    first = "  - {type: prune, name: first, targets: '0', sparsity: {to: 0.5, curve: one-shot}, window: {begin: 0}}\n"
    second = (
        "  - {type: prune, targets: '0', masking: admm, sparsity: {from: 0.5, to: 0.75}, window: {begin: 1, end: 8}}\n"
    )
    training = Training(mlp, Recipe.parse(f"version: 1\nmodifiers:\n{first}{second}"))
    zeros = mlp.get_parameter("0.weight") == 0
    for step in range(STEPS):
        training.train(range(step, step + 1))
        assert not bool((mlp.get_parameter("0.weight")[zeros] != 0).any())
    assert training.manager.sparsity == 0.75


def test_an_update_that_breaks_off_is_made_again(mlp: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the selection leaves the dense weights; the next hook makes the update again, once."""
    from sparsify.masking.competition import Competition

    wanted = Training(copy.deepcopy(mlp), recipe()).train(range(STEPS))
    training = Training(mlp, recipe()).train(range(4))
    real, calls = Competition.masks, []

    def interrupted(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    monkeypatch.setattr(Competition, "masks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train(range(4, 5))
    training.train(range(5, STEPS))
    for mine, theirs in zip(wanted.model.parameters(), training.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"criterion": "random"}, "admm ranks weights by their magnitude, not by 'random': leave it out"),
        ({"criterion": "movement", "penalty": ""}, "need latent weights to learn from: leave `masking` out"),
        ({"criterion": "existing", "sparsity": "", "window": "", "penalty": ""}, "nothing could come back"),
        ({"penalty": "{roles: {attention: 1}}"}, "admm has a λ of its own: write `penalty: 0.01`"),
        (
            {"sparsity": "{to: 0.5, curve: one-shot}", "window": ""},
            "admm needs time: the curve 'one-shot' leaves it none",
        ),
        ({"threshold": "0.1"}, "has no gates: it takes no `threshold`"),
    ],
)
def test_what_does_not_go_with_it(fields: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(**fields)


def test_frozen_weights_are_refused(mlp: nn.Module) -> None:
    mlp.get_parameter("0.weight").requires_grad_(False)
    with pytest.raises(PlanError, match="is frozen, so nothing can pull it towards a sparse copy"):
        Training(mlp, recipe())
