"""The same recipe, model, data and seed in all four loops: the same masks and weights, bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparsify import Manager, Recipe
from tests.integrations.test_distill_trainer import Rows
from tests.integrations.test_distill_trainer import trainer as hf_trainer
from tests.lightnings import QUIET, Distilled
from tests.lightnings import trainer as pl_trainer
from tests.modifiers.distill.students import bert

pytestmark = [*QUIET, pytest.mark.usefixtures("fresh_accelerate")]
EPOCHS, BATCH, STEPS = 2, 4, 12
START = """
version: 1
modifiers:
  - {type: layer_drop, keep: [0, 2, 3]}
  - {type: distill, logits: {temperature: 2}, hidden: {loss: squarehead}, hardness: 0.5}
"""
RECIPES = {
    "magnitude": START + "  - {type: prune, sparsity: {from: 0, to: 0.8}, window: {begin: 10%, end: 80%, every: 2}}\n",
    "movement": START
    + "  - {type: prune, criterion: {type: movement, learning_rate: 0.1}, pattern: {type: block, shape: [4, 4]}, scope: global, sparsity: 0.6}\n",
    "gates": START + "  - {type: prune, criterion: {type: hard-concrete, learning_rate: 1.0}, sparsity: 0.6}\n",
}


def bindings() -> dict[str, Any]:
    return {"teacher": bert(layers=4, seed=9)}


def loader() -> Any:
    return torch.utils.data.DataLoader(Rows(), batch_size=BATCH, generator=torch.Generator())


def loss_of(model: nn.Module, batch: Any) -> Any:
    outputs = model(**batch)
    return outputs.loss, outputs


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """In the two groups of the Trainer: the norm that is clipped is a sum in their order."""
    named = list(model.named_parameters())
    groups = [
        [parameter for name, parameter in named if ("bias" in name or "LayerNorm" in name) is those]
        for those in (False, True)
    ]
    return torch.optim.SGD([{"params": group} for group in groups], lr=1e-2)


def plain(recipe: Recipe, folder: Path) -> nn.Module:
    model = bert(layers=4)
    manager = Manager(recipe).attach(model, **bindings())
    optimizer = sgd(model)
    manager.apply(model, optimizer, steps_per_epoch=STEPS // EPOCHS, epochs=EPOCHS, **bindings())
    model.train()
    for _ in range(EPOCHS):
        for batch in loader():
            manager.on_step_begin()
            optimizer.zero_grad()
            loss, outputs = loss_of(model, batch)
            manager.on_loss(loss, outputs).backward()
            manager.on_before_optimizer_step()
            manager.clip_grad_norm_(0.5)
            optimizer.step()
            manager.on_step_end()
    manager.finalize()
    return model


def with_transformers(recipe: Recipe, folder: Path) -> nn.Module:
    from sparsify.integrations.transformers import SparsifyCallback

    ours = SparsifyCallback(recipe, bindings=bindings())
    made = hf_trainer(folder, ours, model=bert(layers=4), gradient_accumulation_steps=1, max_grad_norm=0.5)
    made.train()
    return made.model


def with_accelerate(recipe: Recipe, folder: Path) -> nn.Module:
    from accelerate import Accelerator

    from sparsify.integrations.accelerate.loop import train

    model = bert(layers=4)
    optimizer = sgd(model)
    train(Accelerator(cpu=True), model.train(), optimizer, loader(), loss_of, recipe, folder, epochs=EPOCHS, max_norm=0.5, **bindings())  # fmt: skip
    return model


class Sgd(Distilled):
    def configure_optimizers(self) -> Any:
        return sgd(self.net)


def with_lightning(recipe: Recipe, folder: Path) -> nn.Module:
    from sparsify.integrations.lightning import SparsifyCallback

    module = Sgd(bert(layers=4).train())
    ours = SparsifyCallback(recipe, bindings=bindings())
    pl_trainer(folder, ours, max_epochs=EPOCHS, gradient_clip_val=0.5).fit(module, loader())
    return module.net


@pytest.mark.parametrize("kind", RECIPES)
def test_four_loops_make_the_same_masks(tmp_path: Path, kind: str) -> None:
    recipe = Recipe.parse(RECIPES[kind])
    wanted = plain(recipe, tmp_path)
    for loop in (with_transformers, with_accelerate, with_lightning):
        found = loop(recipe, tmp_path / loop.__name__)
        for (name, mine), theirs in zip(wanted.named_parameters(), found.parameters(), strict=True):
            assert torch.equal(mine == 0, theirs == 0), (loop.__name__, name)
            assert torch.equal(mine, theirs), (loop.__name__, name)
