"""Processes that must train one model: `torchrun --nproc_per_node 2 tests/ddp_agreement.py HOW …`; prints what came of it.

before, after    DDP is made before or after `apply`, and each process has other weights to begin with
alone            nobody reduces gradients
tampered         one process writes to a weight behind the manager's back
self             the teacher is a copy of the student, which each process has begun otherwise
shapes           the models are not of one shape
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sparsify import Manager, Recipe
from sparsify.errors import SparsifyError
from tests.modifiers.distill.students import bert
from tests.processes import leave

STEPS = 24
RECIPES = {
    "prune": "version: 1\nmodifiers:\n"
    '  - {type: prune, targets: "0", scope: global, sparsity: 0.5, window: {begin: 0, end: 12}}\n'
    '  - {type: prune, targets: "2", criterion: movement, sparsity: 0.5, window: {begin: 0, end: 20}}\n',
    "self": "version: 1\nmodifiers:\n  - {type: distill, logits: {}, teacher: self}\n"
    "  - {type: prune, criterion: movement, sparsity: 0.5}\n",
}


def train(how: str, rank: int) -> tuple[nn.Module, list[str]]:
    torch.manual_seed(0 if how == "alone" else rank)
    width = 16 + rank if how == "shapes" else 16
    model: Any = (
        bert(seed=rank) if how == "self" else nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 16))
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    wrapped: Any = DistributedDataParallel(model) if how == "before" else model
    recipe = Recipe.parse(RECIPES["self" if how == "self" else "prune"])
    manager = Manager(recipe).apply(wrapped, optimizer, total_steps=STEPS)
    if how not in ("before", "alone"):
        wrapped = DistributedDataParallel(model)
    for step in range(STEPS):
        made = torch.Generator().manual_seed(1000 * rank + step)  # other data in each process
        manager.on_step_begin()
        optimizer.zero_grad()
        if how == "self":
            ids = torch.randint(2, 40, (4, 6), generator=made)
            outputs = wrapped(input_ids=ids, labels=ids[:, 0] % 3)
            loss = manager.on_loss(outputs.loss, outputs)
        else:
            loss = wrapped(torch.randn(4, 8, generator=made)).square().mean()
        loss.backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        if how == "tampered" and rank == 1 and step == 5:
            with torch.no_grad():
                model[0].weight.mul_(1.01)
        manager.on_step_end()
    manager.finalize()
    return model, list(manager.plan.notes)


def main(ways: list[str]) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for how in ways:
        try:
            model, notes = train(how, rank)
            values = b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())
            said = f"{hashlib.sha256(values).hexdigest()[:16]} {len(notes)}"
        except SparsifyError as error:
            said = f"{type(error).__name__}: {error}"
        sys.stdout.write(f"{how} {rank}: {said}\n")
        sys.stdout.flush()
    leave()


if __name__ == "__main__":
    main(sys.argv[1:])
