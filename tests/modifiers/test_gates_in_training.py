"""Gates in a training: what is counted, biases, resumes, what others write, and steps that did not come about."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import Manager, Recipe, RecipeError
from sparsify.masking import budget
from sparsify.modifiers.prune.controller import Controller
from sparsify.modifiers.prune.gated import GatedRun
from tests.learning import CRITERIA, run_of, start
from tests.loop import STEPS, WEIGHTS, latent_of, loss_of, train, zeros


def test_the_ramp_begins_and_ends_where_the_window_does(mlp: nn.Module) -> None:
    manager, optimizer = start(mlp, CRITERIA["hard"], window="{begin: 2, end: 10}")
    seen = []
    for step in range(12):
        train(mlp, optimizer, manager, range(step, step + 1))
        seen.append(zeros(mlp, "0.weight"))
    elements = mlp[0].weight.numel()
    assert seen[:2] == [0, 0]
    assert seen[2] == budget(0.75 - 0.75 * (7 / 8) ** 3, elements)
    assert seen[9:] == [budget(0.75, elements)] * 3


def test_two_of_four_along_the_inputs(mlp: nn.Module) -> None:
    manager, optimizer = start(mlp, CRITERIA["hard"], pattern='"2:4"', sparsity="0.5", targets='["0", "2"]')
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()
    for index in (0, 2):
        assert bool(((mlp[index].weight != 0).view(-1, 4).sum(1) == 2).all())


@pytest.mark.parametrize("init", ["zero", "magnitude"])
def test_exact_counts_for_convolutions_in_any_memory_format(init: str) -> None:
    """nn_pruning returned raw scores for tensors that are not contiguous."""
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    manager, _ = start(model, f"{{type: movement, init: {init}}}", optimizer, sparsity="0.29")
    for _ in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        model(torch.randn(2, 4, 8, 8)).square().mean().backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    manager.finalize()
    assert zeros(model, "0.weight") == budget(0.29, 4 * 8 * 9)


@pytest.mark.parametrize("pattern", ["row", "{type: block, shape: [8, 8]}"])
def test_biases_go_with_their_rows(pattern: str, mlp: nn.Module) -> None:
    nn.init.normal_(mlp[0].bias)
    manager, optimizer = start(
        mlp, CRITERIA["hard"], pattern=pattern, targets='"0"', biases="with-rows", sparsity="0.75"
    )
    train(mlp, optimizer, manager, range(STEPS))
    density = manager.finalize()
    dead = (mlp[0].weight == 0).all(1)
    assert bool(dead.any())
    assert torch.equal(mlp[0].bias == 0, dead)
    assert density.targeted.elements == mlp[0].weight.numel(), "biases follow, they are not counted"


def test_ten_percent_is_ten_point_one_with_biases_and_norms(tmp_path: Any) -> None:
    """Under the convention of the movement-pruning paper, which counts an encoder's biases and norms."""
    from transformers import BertConfig, BertModel

    from sparsify.report.census import count
    from sparsify.report.saved import find

    config = BertConfig(
        hidden_size=768, num_hidden_layers=1, num_attention_heads=12, intermediate_size=3072, vocab_size=8
    )
    model = BertModel(config, add_pooling_layer=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    text = "version: 1\nmodifiers:\n  - {type: prune, criterion: movement, sparsity: 0.9, window: {begin: 0, end: 2}}\n"
    manager = Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=2)
    for _ in range(2):
        manager.on_step_begin()
        optimizer.zero_grad()
        optimizer.zero_grad()
        model(input_ids=torch.tensor([[1, 2, 3]])).last_hidden_state.square().mean().backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    manager.finalize()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(1e-3)  # fresh biases are zero; trained ones are not
    model.save_pretrained(tmp_path)
    densities = {name: entry.density for name, entry in count(find(tmp_path), model).conventions.items()}
    assert densities["encoder linear"] == pytest.approx(0.1, abs=1e-6)
    assert densities["encoder"] == pytest.approx(0.101, abs=5e-4)


@pytest.mark.parametrize("resumed", [False, True])
def test_apply_leaves_the_weights_as_it_finds_them(resumed: bool, mlp: nn.Module) -> None:
    """Gates act from the first step on: not before it, and not after it was broken off."""

    def is_as_found() -> bool:
        return all(map(torch.equal, found, mlp.parameters()))

    found = [parameter.detach().clone() for parameter in mlp.parameters()]
    manager, optimizer = start(mlp, CRITERIA["l0"])
    if resumed:
        state = manager.state_dict()
        manager, optimizer = start(mlp, CRITERIA["l0"])
        manager.load_state_dict(state)
    assert is_as_found()
    manager.on_step_begin()
    assert not is_as_found(), "gates are sampled"
    loss_of(mlp, 0).backward()
    manager.on_before_optimizer_step()
    manager.on_step_end()  # no optimizer stepped
    assert is_as_found()
    manager.on_step_begin()
    manager.state_dict()  # ends the step
    assert is_as_found()
    train(mlp, optimizer, manager, range(1))
    latent = latent_of(manager, "0.weight")
    assert latent.gates is not None
    assert torch.equal(mlp.get_parameter("0.weight"), latent.tensor * latent.gates)
    assert not torch.equal(mlp.get_parameter("0.weight"), latent.tensor)
    before = [parameter.detach().clone() for parameter in mlp.parameters()]
    manager.on_step_begin()
    manager.on_before_optimizer_step()
    manager.on_step_end()
    assert all(map(torch.equal, before, mlp.parameters())), "gates of an evaluation are back"


@pytest.mark.parametrize("when", ["before the step", "within it"])
def test_what_others_write_is_taken_up_through_the_gates_that_showed_it(when: str, mlp: nn.Module) -> None:
    """New gates are sampled after somebody has written to one weight: it alone is another one then."""
    manager, optimizer = start(mlp, CRITERIA["l0"])
    train(mlp, optimizer, manager, range(3))
    if when == "within it":
        manager.on_step_begin()
    latent = latent_of(manager, "0.weight")
    assert latent.gates is not None
    before, gates, weight = latent.tensor.clone(), latent.gates, mlp.get_parameter("0.weight")
    place = tuple(((gates > 0.2) & (gates < 0.9) & (weight != 0)).nonzero()[0])
    weight.data[place] = 3.0
    if when == "before the step":
        manager.on_step_begin()
    else:
        manager.on_step_end()
        manager.state_dict()  # the step is broken off
    wanted = before.clone()
    wanted[place] = 3.0 / gates[place]
    torch.testing.assert_close(latent.tensor, wanted)


def test_the_noise_of_a_controller_begins_with_the_first_step() -> None:
    controller = Controller(reaction=10.0)
    assert controller.blended(4.0) == 4.0
    assert controller.noise == 0.0, "until the step has happened"
    controller.noise = 4.0
    assert controller.blended(1.0) == pytest.approx(0.98 * 4 + 0.02)


def test_a_controller_reacts_in_a_tenth_of_its_window(mlp: nn.Module) -> None:
    fields = {"window": "{begin: 40, end: 90}", "total_steps": 100, "scope": "global"}
    run = run_of(start(mlp, CRITERIA["soft"], **fields)[0])
    assert isinstance(run, GatedRun)
    assert [controller.reaction for controller in run.steering.controllers] == [5.0]
    run = run_of(start(mlp, CRITERIA["soft"])[0])
    assert isinstance(run, GatedRun)
    assert [controller.reaction for controller in run.steering.controllers] == [1.0] * 3, "a step at least"


def test_what_lies_before_the_window_is_no_lasting_error(mlp: nn.Module) -> None:
    """However late it opens: at its first update nothing has been wrong for any time."""
    fields = {"sparsity": "{from: 0.5, to: 0.75}", "window": "{begin: 6, end: 12, every: 2}"}
    manager, optimizer = start(mlp, CRITERIA["soft"], **fields)
    train(mlp, optimizer, manager, range(6))
    run = run_of(manager)
    assert isinstance(run, GatedRun)
    assert [each.integral for each in run.steering.controllers] == [0.0] * len(WEIGHTS)
    assert all(each.pressure > 0 for each in run.steering.controllers)
    train(mlp, optimizer, manager, range(6, 8))
    assert any(each.integral != 0 for each in run.steering.controllers)


def test_every_step_has_gates_of_its_own(mlp: nn.Module) -> None:
    """From seed, step and name: the same once more, and others in the next step though the scores stay."""
    manager, optimizer = start(
        mlp, "{type: hard-concrete, learning_rate: 1e-9}", torch.optim.SGD(mlp.parameters(), lr=0.0)
    )
    sampled: list[Tensor] = []
    for step in range(2):
        manager.on_step_begin()
        gate = latent_of(manager, "0.weight").gate
        assert gate is not None
        sampled.append(gate.clone())
        manager.on_step_end()
        manager.on_step_begin()
        assert torch.equal(latent_of(manager, "0.weight").gate, gate)
        manager.on_step_end()
        train(mlp, optimizer, manager, range(step, step + 1))
    assert float((sampled[0] - sampled[1]).abs().mean()) > 0.01


def test_a_step_that_did_not_come_about_is_begun_again_with_its_gates(mlp: nn.Module) -> None:
    """No optimizer stepped: `on_step_begin` is enough to go on, however often that happens."""
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.01)
    manager, _ = start(mlp, CRITERIA["l0"], optimizer)
    train(mlp, optimizer, manager, range(3))
    for _ in range(2):
        manager.on_step_begin()
        optimizer.zero_grad()
        loss_of(mlp, 3).backward()
        manager.on_before_optimizer_step()
        manager.on_step_end()
        assert not manager._masks.sampled
    train(mlp, optimizer, manager, range(3, STEPS))
    assert manager.step == STEPS
    assert manager.finalize().targeted.sparsity == 0.75


def test_plain_sgd_is_told_how_far_at_the_rate_of_this_step(mlp: nn.Module) -> None:
    """A pressure of 1 moves a score by 0.01 in a step, whatever the learning rate is by then."""
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    manager, _ = start(mlp, "{type: soft-movement, optimizer: sgd, learning_rate: 0.5}", optimizer, targets='"0"')
    run = run_of(manager)
    assert isinstance(run, GatedRun)
    run.steering.controllers[0].pressure = 0.5
    optimizer.param_groups[0]["lr"] = 0.025
    manager.on_step_begin()
    (mlp[0].weight.sum() * 0).backward()
    manager.on_before_optimizer_step()
    scores = run.scores["0.weight"].values
    before, open_ = scores.detach().clone(), scores.detach().sigmoid()
    optimizer.step()
    manager.on_step_end()
    moved = before - scores.detach()
    torch.testing.assert_close(moved, 0.5 * 0.01 * open_ * (1 - open_) / (0.1 * 0.9), rtol=1e-3, atol=1e-6)


def test_only_gates_that_are_sampled_refuse_two_of_four(mlp: nn.Module) -> None:
    fields = {"pattern": '"2:4"', "sparsity": "0.5", "targets": '["0", "2"]'}
    start(mlp, "soft-movement", **fields)
    with pytest.raises(RecipeError, match="sampled one by one, which never makes 2:4"):
        start(mlp, "hard-concrete", **fields)
