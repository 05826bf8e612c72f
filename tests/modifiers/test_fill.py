"""`fill`: dead heads and neurons stay, everything else may grow back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sparsify import Manager, PlanError, Recipe
from sparsify.density import measure
from tests.layers import KINDS
from tests.loop import masks_of

STEPS, CUT = 12, 6

RECIPE = """version: 1
stages:
  - name: shrink
    length: {cut}
    modifiers:
      - {{type: prune, targets: {attention}, sparsity: {{to: 0.8, curve: one-shot}}, pattern: {pattern}, scope: global,
         criterion: {criterion}, window: {{begin: 3}}{biases}}}
      - {{type: prune, targets: ffn, sparsity: {{to: 0.5, curve: one-shot}}, pattern: {ffn}, criterion: {criterion},
         window: {{begin: 3}}}}
  - name: fill
    modifiers:
      - {{type: fill{more}}}
"""


def recipe(
    criterion: str = "movement",
    more: str = "",
    pattern: str = "{type: block, shape: [4, 4]}",
    biases: bool = True,
    ffn: str = "neuron",
) -> Recipe:
    follow = ", biases: with-rows" if biases else ""
    text = RECIPE.format(
        cut=CUT, criterion=criterion, more=more, pattern=pattern, biases=follow, attention="attention", ffn=ffn
    )
    return Recipe.parse(text)


def trained(kind: str, found: Recipe, until: int = STEPS) -> tuple[nn.Module, Any, Manager]:
    model = KINDS[kind].build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    manager = Manager(found).apply(model, optimizer, total_steps=STEPS)
    for step in range(until):
        KINDS[kind].step(model, optimizer, manager, step)
    return model, optimizer, manager


def living_of_bert(masks: dict[str, torch.Tensor], layer: int) -> tuple[list[bool], list[bool]]:
    """Say which heads and neurons of a layer live, by loops, from the masks before the fill."""
    block = f"encoder.layer.{layer}"
    value, output = (masks[f"{block}.attention.{name}.weight"] for name in ("self.value", "output.dense"))
    heads = [bool(value[4 * h : 4 * h + 4].any() and output[:, 4 * h : 4 * h + 4].any()) for h in range(4)]
    up, down = masks[f"{block}.intermediate.dense.weight"], masks[f"{block}.output.dense.weight"]
    return heads, [bool(up[n].any() and down[:, n].any()) for n in range(24)]


@pytest.mark.parametrize("ffn", ["neuron", "row", "column"])
def test_only_dead_structure_stays_dead(ffn: str) -> None:
    """Half a neuron is enough to be dead: its row, which computes it, or its column, which reads it."""
    _, _, before = trained("BERT", recipe(ffn=ffn), CUT - 1)
    masks = {name: mask.clone() for name, mask in masks_of(before).items()}
    _, _, manager = trained("BERT", recipe(ffn=ffn))
    after = masks_of(manager)
    dead = 0
    for layer in range(2):
        heads, neurons = living_of_bert(masks, layer)
        rows = torch.tensor(heads).repeat_interleave(4)
        dead += 4 - sum(heads)
        block = f"encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            assert torch.equal(after[f"{block}.attention.self.{name}.weight"], rows.unsqueeze(1).expand(16, 16))
            assert torch.equal(after[f"{block}.attention.self.{name}.bias"], rows)
        assert torch.equal(after[f"{block}.attention.output.dense.weight"], rows.expand(16, 16))
        kept = torch.tensor(neurons)
        assert torch.equal(after[f"{block}.intermediate.dense.weight"], kept.unsqueeze(1).expand(24, 16))
        assert torch.equal(after[f"{block}.output.dense.weight"], kept.expand(16, 24))
        assert sum(neurons) == 12
    assert dead, "the test has a dead head"
    report = {run.key: run.report() for run in manager._runs}["fill/fill"]
    assert report["returned"] == sum(int((after[name] & ~mask).sum()) for name, mask in masks.items())
    assert manager.finalize().targeted.sparsity < 0.75


@pytest.mark.parametrize("kind", ["BERT", "GPT-2"])
def test_the_sparsity_on_the_way_is_the_one_counted_at_the_end(kind: str) -> None:
    """Biases that follow their rows are not targeted, and a fill masks whole parameters in place of their parts."""
    _, _, before = trained(kind, recipe(), CUT - 1)
    assert before.sparsity == pytest.approx(measure(before._model, before.plan.targeted()).targeted.sparsity)
    _, _, manager = trained(kind, recipe())
    assert manager.sparsity != pytest.approx(before.sparsity), "the fill changed something"
    assert manager.finalize().targeted.sparsity == pytest.approx(manager.sparsity)


def test_weights_grow_back() -> None:
    model, optimizer, manager = trained("BERT", recipe(), CUT)
    before = sum(int((parameter == 0).sum()) for parameter in model.parameters())
    for step in range(CUT, STEPS):
        KINDS["BERT"].step(model, optimizer, manager, step)
    after = sum(int((parameter == 0).sum()) for parameter in model.parameters())
    assert after < before
    manager.finalize()


def test_filling_with_zeros_leaves_the_function() -> None:
    """Where biases went with their rows, what the fill prunes in addition did nothing."""
    outputs = []
    for stop in (CUT - 1, CUT):
        model, optimizer, manager = trained("BERT", recipe(), CUT - 1)
        if stop == CUT:
            optimizer.param_groups[0]["lr"] = 0.0
            optimizer.param_groups[0]["weight_decay"] = 0.0
            KINDS["BERT"].step(model, optimizer, manager, CUT - 1)
        inputs = KINDS["BERT"].inputs(torch.Generator().manual_seed(7))
        assert isinstance(inputs, dict)
        outputs.append(model(**inputs).last_hidden_state)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-6)


def test_noise_as_published() -> None:
    model, _, manager = trained("BERT", recipe(more=", start: noise"), CUT)
    weight = model.get_parameter("encoder.layer.0.attention.self.query.weight")
    mask = masks_of(manager)["encoder.layer.0.attention.self.query.weight"]
    assert not bool((weight[mask] == 0).any())
    assert not bool(weight[~mask].any())
    _, _, before = trained("BERT", recipe(more=", start: noise"), CUT - 1)
    biases = {name: mask for name, mask in masks_of(before).items() if name.endswith("bias")}
    pairs = [(name, masks_of(manager)[name] & ~mask) for name, mask in biases.items()]
    assert any(bool(grown.any()) for _, grown in pairs)
    for name, grown in pairs:
        assert not bool(model.get_parameter(name)[grown].any()), "biases begin at zero"


@pytest.mark.parametrize("kind", ["BERT", "GPT-2", "Llama"])
@pytest.mark.parametrize("stop", [2, CUT, CUT + 2])
def test_resume(kind: str, stop: int) -> None:
    finished, _, manager = trained(kind, recipe())
    manager.finalize()
    report = manager._runs[-1].report()
    model, optimizer, manager = trained(kind, recipe(), stop)
    saved = [part.state_dict() for part in (model, optimizer, manager)]
    again = KINDS[kind].build()
    optimizer = torch.optim.AdamW(again.parameters(), lr=0.003)
    manager = Manager(recipe()).apply(again, optimizer, total_steps=STEPS)
    for part, state in zip((again, optimizer, manager), saved, strict=True):
        part.load_state_dict(state)
    for step in range(stop, STEPS):
        KINDS[kind].step(again, optimizer, manager, step)
    manager.finalize()
    for mine, theirs in zip(again.parameters(), finished.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert manager._runs[-1].report() == report


def test_the_target_of_what_was_filled_is_gone() -> None:
    _, _, manager = trained("BERT", recipe(), CUT - 1)
    assert manager.target == pytest.approx(manager.sparsity, abs=0.02)
    _, _, manager = trained("BERT", recipe())
    assert manager.target == pytest.approx(manager.sparsity)
    assert manager.last_update == CUT


def test_what_cannot_be_filled_is_refused() -> None:
    model = KINDS["BERT"].build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(PlanError, match="no modifier before prunes what is targeted: there is nothing to fill"):
        Manager(Recipe.parse("version: 1\nmodifiers:\n  - {type: fill}\n")).apply(model, optimizer, total_steps=STEPS)
    text = 'version: 1\nmodifiers:\n  - {type: prune, targets: "*", sparsity: 0.5, window: {end: 3}}\n  - {type: fill, begin: 5}\n'
    plain = KINDS["Linear"].build()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    with pytest.raises(PlanError, match="heads and neurons of Sequential are not known"):
        Manager(Recipe.parse(text)).apply(plain, optimizer, total_steps=STEPS)
    early = recipe(more="").dump().replace("type: fill", "type: fill\n    begin: 90%")
    assert Recipe.parse(early)
