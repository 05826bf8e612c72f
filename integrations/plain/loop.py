"""A hand-written training loop with every hook in its place, checkpoints and exact resume.

Run it as it is, `python -m sparsify.integrations.plain.loop`, or copy it and put your model and data in.
The three lines that matter are marked with ←.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify import Density, Manager, Recipe, checkpoint

Batch = tuple[Tensor, Tensor]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    loss_of: Callable[[nn.Module, Batch], Tensor],
    recipe: Recipe,
    directory: Path,
    *,
    epochs: int,
    accumulate: int = 1,
    max_norm: float = 1.0,
    save_every: int = 50,
) -> Density:
    """Train `model` in place under `recipe`; go on from `directory` if it holds a checkpoint.

    `batches` is an epoch, in order; `accumulate` of them make one optimizer step. Writes the checkpoint,
    and at the end `recipe.yaml` and `report.json`, to `directory`. Returns the density that was reached.
    """
    steps_per_epoch = len(batches) // accumulate
    manager = Manager(recipe).apply(model, optimizer, steps_per_epoch=steps_per_epoch, epochs=epochs)
    path = directory / "checkpoint.pt"
    if path.exists():
        resume(path, model, optimizer, manager)

    while manager.step < epochs * steps_per_epoch:
        first = (manager.step % steps_per_epoch) * accumulate
        manager.on_step_begin()  # ←
        optimizer.zero_grad()
        for batch in batches[first : first + accumulate]:
            (loss_of(model, batch) / accumulate).backward()
        manager.on_before_optimizer_step()  # ← gradients are complete; clip after this, not before
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        manager.on_step_end()  # ←
        if manager.step % save_every == 0:
            save(path, model, optimizer, manager)

    save(path, model, optimizer, manager)
    return manager.finalize(directory)


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, manager: Manager) -> None:
    """Write everything that the next step depends on; a crash while writing leaves the previous file."""
    checkpoint.save(
        path,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        manager=manager.state_dict(),
        rng=torch.get_rng_state(),
    )


def resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, manager: Manager) -> None:
    """Load a checkpoint: the model first, the manager last (it checks that the weights are its own)."""
    parts: dict[str, Any] = checkpoint.load(path)
    model.load_state_dict(parts["model"])
    optimizer.load_state_dict(parts["optimizer"])
    manager.load_state_dict(parts["manager"])
    torch.set_rng_state(parts["rng"])


RECIPE = """
version: 1
name: plain-loop
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
    batches = list(zip(points.split(32), inside.split(32), strict=True))
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    with tempfile.TemporaryDirectory() as folder:
        density = train(model, optimizer, batches, loss_of, Recipe.parse(RECIPE), Path(folder), epochs=8)
    right = (model(points).argmax(1) == inside).float().mean().item()
    print(f"accuracy {right:.1%} with {density.targeted.sparsity:.1%} of the targeted weights zero")


if __name__ == "__main__":
    main()
