"""A training loop with Accelerate: accumulation, clipping, several processes, checkpoints and exact resume.

Run it as it is, `python -m sparsify.integrations.accelerate.loop` or `accelerate launch -m …`, or copy it and put your
model and data in. The lines that matter are marked with ←; their order is what can go wrong:

attach, prepare, apply     dropped layers are gone before DDP, or a checkpoint, sees the model
hooks inside accumulate()  apply has the prepared optimizer, which says when a micro-batch only accumulates
manager.clip_grad_norm_    not the accelerator's, which would unscale the gradients a second time
save_state, then mark      a checkpoint that is not marked was being written when the process died, and is not resumed
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import Tensor, nn

from sparsify import Density, Manager, Recipe
from sparsify.integrations.common import checkpoints


def train(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Any,
    loss_of: Callable[[nn.Module, Any], tuple[Tensor, Any]],
    recipe: Recipe,
    directory: Path,
    *,
    epochs: int,
    max_norm: float = 1.0,
    save_every: int = 50,
    **bindings: Any,
) -> Density:
    """Train `model` in place under `recipe`; go on from the last whole checkpoint in `directory`.

    `loader` is a DataLoader with a `generator` of its own, so that beginning to read draws no random number that
    dropout would have had; where it shuffles, the accelerator has `use_seedable_sampler`. `loss_of(model, batch)`
    returns the loss and the model's outputs, for recipes that distil; `bindings` are what they declare (`teacher=…`).
    The first process writes checkpoints, and at the end `recipe.yaml` and `report.json`, to `directory`. Returns the
    density that was reached.
    """
    last = checkpoints.last_whole(directory)
    manager = Manager(recipe).attach(model, **bindings)  # ←
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accumulate = accelerator.gradient_accumulation_steps
    per_epoch = math.ceil(len(loader) / accumulate)
    manager.apply(
        model, optimizer, steps_per_epoch=per_epoch, epochs=epochs, scaler=accelerator.scaler, **bindings
    )  # ← the prepared optimizer, and the scaler
    accelerator.register_for_checkpointing(manager)  # ← once apply() has been called: its state is loaded last
    run = checkpoints.new_run()
    if last is not None:
        accelerator.load_state(str(last))
        run = checkpoints.marker(last).run

    for epoch in range(manager.step // per_epoch, epochs):
        done = manager.step % per_epoch * accumulate
        batches = accelerator.skip_first_batches(loader, done) if done else loader
        batches.set_epoch(epoch)  # the order in which a seedable sampler reads; a loader that skips is a new one
        for batch in batches:
            with accelerator.accumulate(model):
                manager.on_step_begin()  # ←
                loss, outputs = loss_of(model, batch)
                accelerator.backward(manager.on_loss(loss, outputs))
                manager.on_before_optimizer_step()  # ← gradients are complete; clip after this, not before
                if accelerator.sync_gradients:
                    manager.clip_grad_norm_(max_norm)
                optimizer.step()
                optimizer.zero_grad()
                manager.on_step_end()  # ←
            if accelerator.sync_gradients and manager.step % save_every == 0:
                save(accelerator, directory / f"checkpoint-{manager.step}", run)
    accelerator.wait_for_everyone()
    return manager.finalize(directory if accelerator.is_main_process else None)


def save(accelerator: Accelerator, folder: Path, run: str) -> None:
    """Write everything that the next step depends on; the marker comes when every process has written its part."""
    accelerator.save_state(str(folder))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        checkpoints.mark(folder, run)
    accelerator.wait_for_everyone()


RECIPE = """
version: 1
name: accelerate-loop
modifiers:
  - type: prune
    targets: "*"
    exclude: "4"                       # the last layer stays dense
    sparsity: {from: 0, to: 0.9, curve: cubic}
    window: {begin: 10%, end: 70%, every: 5 steps}
"""


def main() -> None:
    """Prune a small classifier of points inside and outside a circle."""
    torch.manual_seed(0)
    points = torch.randn(2048, 2)
    inside = (points.square().sum(1) < 1.2).long()
    order = DataLoaderConfiguration(use_seedable_sampler=True)
    accelerator = Accelerator(gradient_accumulation_steps=2, dataloader_config=order)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = torch.utils.data.TensorDataset(points, inside)
    loader = torch.utils.data.DataLoader(rows, batch_size=16, shuffle=True, generator=torch.Generator())

    def loss_of(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        logits = model(batch[0])
        return nn.functional.cross_entropy(logits, batch[1]), logits

    with tempfile.TemporaryDirectory() as folder:
        density = train(accelerator, model, optimizer, loader, loss_of, Recipe.parse(RECIPE), Path(folder), epochs=8)
    device = accelerator.device
    right = (model(points.to(device)).argmax(1).cpu() == inside).float().mean().item()
    accelerator.print(f"accuracy {right:.1%} with {density.targeted.sparsity:.1%} of the targeted weights zero")


if __name__ == "__main__":
    main()
