"""A complete script: `python -m sparsify.integrations.lightning.example [FOLDER]`, with checkpoints and the best one.

A small classifier of points inside and outside a circle. Started again with the same folder, it goes on from its last
checkpoint.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify import Recipe
from sparsify.integrations.lightning.callback import SparsifyCallback
from sparsify.integrations.lightning.package import lightning

RECIPE = """
version: 1
name: lightning-example
modifiers:
  - type: prune
    targets: "*"
    exclude: "4"                       # the last layer stays dense
    sparsity: {from: 0, to: 0.9, curve: cubic}
    window: {begin: 10%, end: 70%, every: 5 steps}
"""


class Classifier(lightning.LightningModule):  # type: ignore[misc]
    """Inside or outside."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the fraction that is classified rightly."""
        self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def main(directory: Path) -> None:
    """Train in `directory`, or go on there."""
    torch.manual_seed(0)
    points = torch.randn(2048, 2)
    rows = torch.utils.data.TensorDataset(points, (points.square().sum(1) < 1.2).long())
    train, held_out = torch.utils.data.random_split(rows, [1536, 512])
    sparsify = SparsifyCallback(Recipe.parse(RECIPE), directory=directory)
    best = lightning.callbacks.ModelCheckpoint(directory, monitor="accuracy", mode="max", save_last=True)
    trainer = lightning.Trainer(
        max_epochs=8,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        callbacks=[sparsify, best],  # ←
    )
    last = directory / "last.ckpt"
    loaders = [torch.utils.data.DataLoader(part, batch_size=32) for part in (train, held_out)]
    trainer.fit(Classifier(), *loaders, ckpt_path=str(last) if last.exists() else None)
    right = trainer.validate(Classifier(), loaders[1], ckpt_path=best.best_model_path, verbose=False)[0]["accuracy"]
    assert sparsify.density is not None
    print(f"accuracy {right:.1%} with {sparsify.density.targeted.sparsity:.1%} of the targeted weights zero")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
