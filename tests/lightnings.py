"""Lightning's Trainer, a small model and data that can be resumed anywhere: what its tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from sparsify import Recipe
from sparsify.integrations.lightning import SparsifyCallback, on_loss
from tests.loop import batch

QUIET = [
    pytest.mark.filterwarnings("ignore:.*(LeafSpec|treespec).*:FutureWarning"),  # Lightning's use of torch
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]
RECIPE = """
version: 1
modifiers:
  - {type: prune, targets: "*", sparsity: 0.75, window: {begin: 1, end: 8, every: 2}}
"""
CRITERIA = {
    "magnitude": RECIPE,
    "latent": RECIPE.replace("type: prune,", "type: prune, masking: latent,"),
    "movement": RECIPE.replace("type: prune,", "type: prune, criterion: movement,"),
    "gates": RECIPE.replace("type: prune,", "type: prune, criterion: {type: hard-concrete, learning_rate: 1.0},"),
}
"""The recipe by the way in which its masks are made."""


class Batches:
    """The batches of an epoch, by number; says where it is, so that a training goes on there."""

    def __init__(self, count: int, make: Any = batch) -> None:
        self.count, self.make, self.at = count, make, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        self.at %= self.count
        while self.at < self.count:
            self.at += 1
            yield self.make(self.at - 1)

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4))


class Module(pl.LightningModule):
    """A model and the squared error; AdamW."""

    def __init__(self, net: nn.Module | None = None, lr: float = 0.01) -> None:
        super().__init__()
        self.net, self.lr = net if net is not None else mlp(), lr
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = (self.net(batch[0]) - batch[1]).square().mean()
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", (self.net(batch[0]) - batch[1]).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.net.parameters(), lr=self.lr)


class Distilled(Module):
    """A BERT whose loss is its own; with `own`, made here."""

    def __init__(self, net: nn.Module, own: bool = False) -> None:
        super().__init__(net, lr=3e-3)
        self.own = own

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if not self.own:
            loss = self.net(**batch).loss
        else:
            outputs = self.net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            loss = on_loss(self, nn.functional.cross_entropy(outputs.logits, batch["labels"]), outputs)
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.net(**batch).loss)


def trainer(folder: Path, *callbacks: Any, **more: Any) -> pl.Trainer:
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(default_root_dir=str(folder), callbacks=list(callbacks), **{**options, **more})


def callback(text: str = RECIPE, **more: Any) -> SparsifyCallback:
    return SparsifyCallback(Recipe.parse(text), **more)


def same(first: nn.Module, second: nn.Module) -> None:
    for (name, one), (_, other) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
