"""What `finalize` verifies, says and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsify import Manager, Recipe, SparsityError, measure
from tests.loop import masks_of, recipe, train

STEPS = 14


def trained(model: nn.Module, steps: int = STEPS) -> Manager:
    """Train under the usual recipe."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    manager = Manager(recipe()).apply(model, optimizer, total_steps=STEPS)
    train(model, optimizer, manager, range(steps))
    return manager


def test_the_density_is_counted_under_three_conventions(mlp: nn.Module) -> None:
    density = trained(mlp).finalize()
    weights, biases = 16 * 32 + 32 * 8 + 8 * 4, 32 + 8 + 4
    assert (density.targeted.elements, density.targeted.nonzeros) == (weights, weights // 4)
    assert density.layers == density.targeted
    assert (density.model.elements, density.model.nonzeros) == (weights + biases, weights // 4 + biases)
    assert list(density.tensors) == ["0.weight", "2.weight", "4.weight"]
    assert str(density).splitlines()[0] == "targeted   75.00% zero: 200 of 800 weights are left"
    assert "0.weight" not in repr(density), "a model has hundreds of tensors"


def test_a_tied_parameter_is_counted_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert measure(model).model.elements == 16


def test_a_kept_weight_that_is_zero_by_chance_is_no_shortfall(mlp: nn.Module) -> None:
    manager = trained(mlp)
    with torch.no_grad():
        mlp.get_parameter("0.weight").zero_()
    assert manager.finalize().tensors["0.weight"].nonzeros == 0


def test_replaced_weights_are_said_and_not_erased(mlp: nn.Module, tmp_path: Path) -> None:
    manager = trained(mlp)
    with torch.no_grad():
        mlp.get_parameter("0.weight").normal_()
    before = mlp.get_parameter("0.weight").detach().clone()
    with pytest.raises(SparsityError, match=r"weights that were pruned are not zero(.|\n)*0\.weight +384 weights"):
        manager.finalize(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["revived"] == {"0.weight": 384}
    assert torch.equal(mlp.get_parameter("0.weight"), before)
    manager.project(mlp)
    assert manager.finalize().targeted.sparsity == 0.75


def test_falling_short_raises_with_a_table(mlp: nn.Module, tmp_path: Path) -> None:
    manager = trained(mlp)
    with torch.no_grad():
        mlp.get_parameter("2.weight").normal_()
    masks_of(manager)["2.weight"].fill_(True)
    with pytest.raises(SparsityError) as error:
        manager.finalize(tmp_path)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("fewer zeros than asked for")
    assert lines[1].split() == ["tensor", "wanted", "found", "of", "modifier"]
    assert lines[2].split() == ["2.weight", "192", "0", "256", "prune"]
    assert len(lines) == 3
    assert json.loads((tmp_path / "report.json").read_text())["verified"] is False


def test_an_unfinished_run_writes_and_then_raises(mlp: nn.Module, tmp_path: Path) -> None:
    manager = trained(mlp, steps=5)
    with pytest.raises(SparsityError) as error:
        manager.finalize(tmp_path)
    text = str(error.value)
    assert "training ended after 5 steps; the recipe's last update is due at step 10" in text
    assert "0.weight" in text
    assert (tmp_path / "recipe.yaml").exists()
    assert json.loads((tmp_path / "report.json").read_text())["steps"] == {"completed": 5, "skipped": 0}


def test_what_is_written(mlp: nn.Module, tmp_path: Path) -> None:
    manager = trained(mlp)
    density = manager.finalize(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["density"] == density.to_dict()
    assert report["density"]["targeted"]["sparsity"] == 0.75
    assert report["verified"] is True
    assert report["plan"] == manager.plan.to_dict()
    assert Recipe.load(tmp_path / "recipe.yaml").sha256 == report["recipe"]["sha256"] == recipe().sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml", "report.json"]


def test_a_model_that_moved_to_another_dtype_is_still_masked(mlp: nn.Module) -> None:
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.01)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(5))
    mlp.double()
    train(mlp, optimizer, manager, range(5, STEPS))
    assert manager.finalize().targeted.sparsity == 0.75


@pytest.mark.parametrize("criterion", ["magnitude", "movement", "soft-movement", "hard-concrete"])
def test_an_early_end_that_is_accepted_is_compared_with_what_was_asked_for_by_then(
    criterion: str, mlp: nn.Module, tmp_path: Path
) -> None:
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=0.01)
    manager = Manager(recipe(criterion=criterion)).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(5))
    density = manager.finalize(tmp_path, partial=True)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["finished"], report["verified"]) == (False, True)
    if criterion in ("magnitude", "movement"):
        assert density.targeted.sparsity == pytest.approx(0.75 - 0.75 * (1 - 2 / 8) ** 3, abs=0.002)
    assert density.targeted.sparsity < 0.75


def test_an_early_end_that_is_accepted_may_fall_short_all_the_same(mlp: nn.Module) -> None:
    manager = trained(mlp, steps=5)
    with torch.no_grad():
        mlp.get_parameter("2.weight").normal_()
    masks_of(manager)["2.weight"].fill_(True)
    with pytest.raises(SparsityError, match=r"2\.weight +111 +0 +256 +prune"):
        manager.finalize(partial=True)
