"""Gates, their penalty and its controller; and that learned masks have the counts that were asked for."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import Manager, Recipe
from sparsify.modifiers.prune.controller import GAIN, LEAST, LIMIT, SMALL, Controller
from sparsify.modifiers.prune.gated import GatedRun
from tests.learning import CRITERIA, run_of, same, start
from tests.loop import STEPS, WEIGHTS, batch, latent_of, loss_of, masks_of, train, zeros


def test_the_constants_of_hard_concrete_gates() -> None:
    from sparsify.criteria.hard_concrete import HardConcrete

    gate = HardConcrete()
    at_start = torch.full((1,), math.log(9.0), dtype=torch.float64)
    assert float(gate.penalized(at_start)) == pytest.approx(0.978, abs=5e-4)
    assert float(gate.gates(at_start)[0]) == pytest.approx(0.98, abs=5e-4)
    edges = torch.tensor(
        [-math.log(11) - 1e-9, -math.log(11) + 1e-6, math.log(11) - 1e-6, math.log(11) + 1e-9]
    ).double()
    values = gate.gates(edges)[0].tolist()
    assert values[0] == 0 < values[1]
    assert values[2] < 1 == values[3]
    assert gate.cut(0.0) == pytest.approx(-math.log(11))
    noise = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for score in (-2.0, 0.0, math.log(9.0)):
        scores = torch.full_like(noise, score)
        opened = float((gate.sample(scores, noise)[0] > 0).double().mean())
        assert opened == pytest.approx(float(gate.penalized(scores[:1])), abs=0.01)


def test_the_slopes_are_the_derivatives() -> None:
    from sparsify.criteria.hard_concrete import HardConcrete
    from sparsify.criteria.soft_movement import SoftMovement

    scores = torch.linspace(-4, 4, 41, dtype=torch.float64, requires_grad=True)
    noise = torch.rand(41, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for gate in (HardConcrete(), SoftMovement()):
        (slope,) = torch.autograd.grad(gate.penalized(scores).sum(), scores)
        torch.testing.assert_close(gate.slope(scores.detach()), slope)
    at = scores.detach()
    for gates in (HardConcrete().gates, lambda scores: HardConcrete().sample(scores, noise)):
        rise = (gates(at + 1e-6)[0] - gates(at - 1e-6)[0]) / 2e-6
        torch.testing.assert_close(gates(at)[1], rise, rtol=1e-5, atol=1e-8)


def test_the_floor_is_exact_under_ties(mlp: nn.Module) -> None:
    """The reference's floor keeps nothing where all scores are equal."""
    criterion = "{type: soft-movement, init: constant, offset: -9, learning_rate: 1e-9, floor: 0.1}"
    manager, optimizer = start(mlp, criterion, torch.optim.SGD(mlp.parameters(), lr=0.01), sparsity="", penalty="1")
    train(mlp, optimizer, manager, range(STEPS))
    for name in WEIGHTS:
        mask = masks_of(manager)[name]
        assert int(mask.sum()) == math.ceil(0.1 * mask.numel() - 1e-9)


def test_gates_end_binary_and_the_report_says_what_that_did(mlp: nn.Module, tmp_path: Any) -> None:
    asked: list[float] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        torch.rand(3)
        asked.append(float(loss_of(model, 99)))
        return {"loss": asked[-1]}

    def careful(model: nn.Module) -> dict[str, float]:
        model.eval()
        return evaluate(model)

    plain = copy.deepcopy(mlp)
    manager, optimizer = start(mlp, CRITERIA["l0"], evaluate=careful)
    train(mlp, optimizer, manager, range(9))
    gates = latent_of(manager, "0.weight").gates
    assert gates is not None
    assert bool(((gates > 0) & (gates < 1)).any()), "fractional while it learns"
    train(mlp, optimizer, manager, range(9, STEPS))
    assert mlp.training
    manager.finalize(tmp_path)
    (found,) = (run.report() for run in manager._runs)
    assert found["metrics"] == {"at_threshold": {"loss": asked[0]}, "after": {"loss": asked[1]}}
    assert asked[0] != asked[1]
    assert found["sparsity"] == pytest.approx(0.75, abs=1e-3)
    manager, optimizer = start(plain, CRITERIA["l0"])
    train(plain, optimizer, manager, range(STEPS))
    assert same(mlp, plain), "looking changes nothing"


def test_what_the_floor_keeps_of_closed_gates_is_wholly_open(mlp: nn.Module) -> None:
    """Scores lie just below the cut: without noise all gates are closed, with noise some open by a little."""
    criterion = "{type: hard-concrete, init: constant, offset: -2.6, learning_rate: 1.0e-6, floor: 0.25}"
    manager, optimizer = start(mlp, criterion, sparsity="", penalty="1", pattern="row")
    train(mlp, optimizer, manager, range(4))
    rows = {name: (mlp.get_parameter(name) != 0).flatten(1).any(1) for name in WEIGHTS}
    for kept in rows.values():
        assert int(kept.sum()) == math.ceil(0.25 * len(kept))
    manager.on_step_begin()
    run = run_of(manager)
    assert isinstance(run, GatedRun)
    for name, kept in rows.items():
        assert torch.equal(mlp.get_parameter(name)[kept], latent_of(manager, name).tensor[kept])
        assert not bool(run.slopes[name][kept].any()), "held open, they learn from the penalty alone"
    assert any(bool(run.slopes[name].any()) for name in WEIGHTS)


def test_a_head_that_must_stay_is_wholly_open() -> None:
    """GPT-2 can lose all its heads but one: its gate is closed by its score, and held open."""
    from tests.layers import KINDS

    kind = KINDS["GPT-2"]
    model = kind.build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    criterion = "{type: hard-concrete, init: constant, offset: -2.6, learning_rate: 1.0e-6, floor: 0}"
    manager, _ = start(model, criterion, optimizer, sparsity="", penalty="1", pattern="head", targets="default")
    for step in range(4):
        kind.step(model, optimizer, manager, step)
    manager.on_step_begin()
    run = run_of(manager)
    assert isinstance(run, GatedRun)
    assert len(run.forced) == len(run.scores) == 2
    for name, forced in run.forced.items():
        part = run.scores[name].bundle.parts[0]
        gate = latent_of(manager, part.weight.name).gate
        assert gate is not None
        assert int(forced.sum()) == kind.least == 1
        assert gate[forced].tolist() == [1.0]


def test_ending_gates_by_the_threshold_alone_changes_no_output(mlp: nn.Module) -> None:
    """Open gates are multiplied into their weights: the function is the same before and after."""
    found: list[Tensor] = []
    inputs = batch(5)[0]

    def evaluate(model: nn.Module) -> dict[str, float]:
        found.append(model(inputs))
        return {}

    manager, optimizer = start(mlp, CRITERIA["l0"], evaluate=evaluate, sparsity="", penalty="1000")
    train(mlp, optimizer, manager, range(10))
    assert 0 < manager.sparsity < 1
    assert torch.equal(found[0], found[1])
    assert torch.equal(mlp(inputs), found[1])


@pytest.mark.parametrize(
    ("criterion", "pattern", "scope"),
    [
        ("soft-movement", "unstructured", "global"),
        ("soft-movement", "{type: block, shape: [4, 4]}", "tensor"),
        ("hard-concrete", "unstructured", "global"),
        pytest.param("soft-movement", "unstructured", "tensor", marks=pytest.mark.slow),
        pytest.param("soft-movement", "{type: block, shape: [4, 4]}", "global", marks=pytest.mark.slow),
        pytest.param("hard-concrete", "unstructured", "tensor", marks=pytest.mark.slow),
    ],
)
def test_the_controller_lands_within_a_point(criterion: str, pattern: str, scope: str) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(16, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    manager, _ = start(
        model, criterion, optimizer, pattern=pattern, scope=scope, finish="threshold", sparsity="0.8",
        targets='["0", "2"]', window="{begin: 5%, end: 90%}", total_steps=700,
    )  # fmt: skip
    train(model, optimizer, manager, range(700))
    density = manager.finalize()
    (run,) = manager._runs
    assert isinstance(run, GatedRun)
    assert abs(density.targeted.sparsity - 0.8) <= 0.011
    assert abs(run.report()["sparsity_at_threshold"] - 0.8) <= 0.01, "the controller did it, not the last cut"
    assert all(value != 0 for value in run.report()["lambda"].values())


def test_the_controller_is_patient_while_scores_are_on_their_way() -> None:
    """A large error is answered at once, but counts in the integral as a small one; at the limit nothing is piled up."""
    controller = Controller(reaction=100.0)
    controller.steer(wanted=0.9, found=0.0, steps=1)
    far = math.log((1 + LEAST) / (0.1 + LEAST))
    assert controller.pressure == pytest.approx(GAIN * far)
    assert controller.integral == pytest.approx(GAIN * SMALL / 100)
    near = Controller(reaction=100.0)
    near.steer(wanted=0.9, found=0.899, steps=10)
    assert near.integral == pytest.approx(near.pressure * 10 / 100)
    for _ in range(5000):
        controller.steer(wanted=0.9, found=0.0, steps=10)
    assert controller.pressure == LIMIT
    controller.steer(wanted=0.9, found=0.9, steps=10)
    assert controller.pressure <= LIMIT - GAIN * far + 0.1, "what is left is the integral, no larger than was of use"


def test_the_controllers_steer_to_what_the_scope_divides(mlp: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ERK every tensor has a sparsity of its own."""
    asked: list[float] = []
    steer = Controller.steer

    def listening(self: Controller, wanted: float, found: float, steps: int) -> None:
        asked.append(wanted)
        steer(self, wanted, found, steps)

    monkeypatch.setattr(Controller, "steer", listening)
    manager, optimizer = start(mlp, CRITERIA["soft"], scope="erk")
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()
    zeroed = [zeros(mlp, name) / mlp.get_parameter(name).numel() for name in WEIGHTS]
    assert max(zeroed) - min(zeroed) > 0.1
    assert asked[-len(WEIGHTS) :] == pytest.approx(zeroed, abs=0.02)


def test_a_threshold_that_misses_is_brought_within_a_point(mlp: nn.Module) -> None:
    manager, optimizer = start(mlp, "{type: soft-movement, learning_rate: 1e-6}", finish="threshold")
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()
    (found,) = (run.report() for run in manager._runs)
    assert found["sparsity_at_threshold"] < 0.1
    assert found["sparsity"] == pytest.approx(0.74, abs=0.01)


def test_a_penalty_has_a_ramp_of_its_own(mlp: nn.Module) -> None:
    """λ goes from 2 to 10 between steps 1 and 5, the threshold's window is another."""
    fields = {"penalty": "{from: 2, to: 10, curve: linear, begin: 1, end: 5}", "sparsity": "", "targets": '"0"'}
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.0)
    manager, _ = start(mlp, "soft-movement", optimizer, **fields)
    assert "λ to 10" in str(manager.plan)
    assert "by the threshold" in str(manager.plan)
    (run,), seen = manager._runs, []
    assert isinstance(run, GatedRun)
    for _ in range(8):
        manager.on_step_begin()
        (mlp[0].weight.sum() * 0).backward()
        manager.on_before_optimizer_step()
        scores = run.scores["0.weight"].values
        open_ = scores.detach().sigmoid()
        assert scores.grad is not None
        seen.append(float((scores.grad / (open_ * (1 - open_)) * scores.numel()).mean()))
        optimizer.step()
        manager.on_step_end()
        mlp.zero_grad()
    assert seen == pytest.approx([2, 2, 4, 6, 8, 10, 10, 10], rel=1e-4)


def push_with_roles(fields: str) -> Iterator[tuple[bool, Tensor, Tensor, GatedRun]]:
    """Yield, of every matrix of a BERT whose loss pulls at nothing: whether it is attention's, its scores, their gradient."""
    from tests.layers import KINDS

    model = KINDS["BERT"].build()
    text = (
        "version: 1\nmodifiers:\n  - {type: prune, criterion: soft-movement, scope: global, window: {begin: 0, end: 10}, "
        f"{fields}}}\n"
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    manager = Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=20)
    run = run_of(manager)
    assert isinstance(run, GatedRun)
    for controller in run.steering.controllers:
        controller.pressure, controller.noise = 0.5, 4.0
    manager.on_step_begin()
    (sum(parameter.sum() for parameter in model.parameters()) * 0).backward()
    manager.on_before_optimizer_step()
    for name, scores in run.scores.items():
        assert scores.values.grad is not None
        yield ".attention." in name, scores.values.detach(), scores.values.grad, run


def test_roles_share_a_penalty() -> None:
    """λ ÷ roles × the role's weight × the mean over its tensors of the mean over groups."""
    for attention, values, found, _ in push_with_roles("penalty: {from: 6, to: 6, roles: {attention: 2, ffn: 0.5}}"):
        portion = 2 / 2 / 8 if attention else 0.5 / 2 / 4  # eight matrices of attention, four of the FFN
        wanted = 6 * portion * values.sigmoid() * (1 - values.sigmoid()) / values.numel()
        torch.testing.assert_close(found, wanted)


def test_roles_share_a_steered_penalty() -> None:
    """A pressure p pushes by p × the running root mean square where the threshold ends, roles by their weights ÷ their mean."""
    for attention, values, found, run in push_with_roles("sparsity: 0.5, penalty: {roles: {attention: 2, ffn: 0.5}}"):
        pull = 0.5 * math.sqrt(0.98 * 4.0) / (0.1 * 0.9)
        weight = (2 if attention else 0.5) / ((8 * 2 + 4 * 0.5) / 12)
        torch.testing.assert_close(found, pull * weight * values.sigmoid() * (1 - values.sigmoid()))
        assert len(run.steering.controllers) == 1


def test_looking_at_one_modifier_leaves_the_others_latent_weights() -> None:
    from tests.layers import KINDS

    text = (
        "version: 1\nmodifiers:\n"
        "  - {type: prune, targets: attention, criterion: {type: soft-movement, learning_rate: 0.3}, sparsity: 0.5, "
        "scope: global, window: {begin: 1, end: 5}}\n"
        "  - {type: prune, targets: ffn, masking: latent, sparsity: 0.6, window: {begin: 2, end: 9}}\n"
    )
    kind, models = KINDS["BERT"], []
    asked: list[int] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        asked.append(int((model.get_parameter("encoder.layer.0.output.dense.weight") == 0).sum()))
        return {"zeros": float(asked[-1])}

    for look in (None, evaluate):
        model = kind.build()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
        manager = Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=12, evaluate=look)
        for step in range(12):
            kind.step(model, optimizer, manager, step)
        manager.finalize()
        models.append(model)
    assert same(*models)
    assert min(asked) > 100, "evaluated under all masks"
