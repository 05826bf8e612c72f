"""Weights that are no Linear, as recipes name them: experts, routers, matrices that belong to no known layer."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import Manager, Plan, PlanError, Recipe
from tests import experts
from tests.layers import KINDS


def recipe(**fields: Any) -> Recipe:
    """Return a recipe of one `prune`."""
    prune = {"type": "prune", "sparsity": 0.5, "window": {"end": 2}} | fields
    return Recipe.parse(json.dumps({"version": 1, "modifiers": [prune]}))


def targeted(model: nn.Module, **fields: Any) -> set[str]:
    """Return the names of the parameters that a recipe prunes."""
    plan = Plan.of(recipe(**fields), model, total_steps=3)
    return {weight.parameter_name for weight in plan.targeted()}


class Mixer(nn.Module):
    """Matrices that belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.mix = nn.Parameter(torch.randn(4, 4))
        self.cube = nn.Parameter(torch.randn(2, 4, 4))
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        found: Tensor = self.inner(x) @ self.mix.t() * self.scale
        return found


def test_a_router_is_meant_only_where_it_is_named() -> None:
    for name, make in experts.MODELS.items():
        model = make()
        gates = targeted(model, targets="router")
        assert gates, name
        for selector in (None, "default", "*", "layers.*", "type:Linear", "type:Module"):
            fields = {} if selector is None else {"targets": selector}
            assert not targeted(model, **fields) & gates, (name, selector)
        first = sorted(gates)[0]
        assert targeted(model, targets=first.removesuffix(".weight")) == {first}
        assert targeted(model, targets="experts") <= targeted(model, targets="ffn") <= targeted(model)


def test_a_matrix_of_no_layer_is_meant_by_its_own_name() -> None:
    model = nn.Sequential(Mixer(), Mixer())
    assert targeted(model, targets="0.mix") == {"0.mix"}
    assert targeted(model, targets="*.mix") == {"0.mix", "1.mix"}
    assert targeted(model, targets=["0.mix", "0.inner"]) == {"0.mix", "0.inner.weight"}
    assert targeted(model, targets="*") == {"0.inner.weight", "1.inner.weight"}
    assert targeted(model, targets=["*", "1.mix"], exclude="0") == {"1.inner.weight", "1.mix"}
    for name, words in (("0.scale", "is no matrix"), ("0.cube", "register_layer")):
        with pytest.raises(PlanError, match=words):
            targeted(model, targets=name)
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    manager = Manager(recipe(targets="0.mix", pattern="2:4")).apply(model, optimizer, total_steps=3)
    for _ in range(3):
        manager.on_step_begin()
        model(torch.randn(3, 4)).square().sum().backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    manager.finalize()
    assert bool(((model[0].mix != 0).sum(1) == 2).all())


def test_what_cannot_be_masked_is_said_where_it_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(PlanError, match=r"1\.weight is computed .*\.remove_parametrizations\(module, 'weight'\)"):
        targeted(model, targets="1")
    plan = Plan.of(recipe(targets="*"), model, total_steps=3)
    assert any("1.weight: is computed" in note for note in plan.notes)


@pytest.mark.parametrize("name", ["Mixtral", "GPT-OSS"])
def test_whole_experts_die_and_as_many_stay_as_a_token_takes(name: str) -> None:
    kind = KINDS[name]
    model: Any = kind.build()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    manager = Manager(recipe(pattern="expert", scope="global")).apply(model, optimizer, total_steps=3)
    for step in range(3):
        kind.step(model, optimizer, manager, step)
    manager.finalize()
    for layer in model.layers:
        found = layer.mlp.experts
        alive = [{int(part[expert].count_nonzero() > 0) for part in found.parameters()} for expert in range(4)]
        assert sorted(alive, key=str) == [{0}, {0}, {1}, {1}], "an expert lives or dies with all that it has"
        dead = alive.index({0})
        x, everyone = torch.randn(3, 16), torch.full((3, 1), dead)
        assert not bool(found(x, everyone, torch.ones(3, 1)).any())
    with pytest.raises(PlanError, match=r"at most 0\.5 can be pruned"):
        Plan.of(recipe(pattern="expert", sparsity=0.75), kind.build(), total_steps=3)
    with pytest.raises(PlanError, match="targeted in part"):
        Plan.of(recipe(pattern="expert", targets="ffn.down"), kind.build(), total_steps=3)


def test_every_expert_is_a_tensor_of_its_own() -> None:
    kind = KINDS["Mixtral"]
    model: Any = kind.build()
    model.layers[0].mlp.experts.gate_up_proj.data[0] *= 100
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    manager = Manager(recipe(targets="experts")).apply(model, optimizer, total_steps=3)
    names = [tensor.name for tensor in manager.plan.modifiers[0].tensors]
    assert names[:2] == ["layers.0.mlp.experts.gate_up_proj[0]", "layers.0.mlp.experts.gate_up_proj[1]"]
    for step in range(3):
        kind.step(model, optimizer, manager, step)
    manager.finalize()
    for layer in model.layers:
        for stack in layer.mlp.experts.parameters():
            assert {int((expert == 0).sum()) * 2 for expert in stack[:3]} == {stack[0].numel()}, (
                "half of each; the last was zero"
            )
    assert set(manager.state_dict()["masks"]) == {
        f"layers.{index}.mlp.experts.{part}_proj" for index in range(2) for part in ("gate_up", "down")
    }


class Slow(nn.Module):
    """Experts that are modules of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.ModuleDict({"w1": nn.Linear(4, 8), "w2": nn.Linear(8, 4)}) for _ in range(3))


def test_experts_in_a_list() -> None:
    layer = type("MixtralDecoderLayer", (Slow,), {})
    model = nn.Sequential(layer(), layer())
    assert targeted(model, targets="router") == {"0.gate.weight", "1.gate.weight"}
    assert len(targeted(model)) == len(targeted(model, targets="ffn", pattern="neuron")) - 6 == 12
    with pytest.raises(PlanError, match="its experts are modules of their own"):
        targeted(model, targets="experts", pattern="expert")
