"""A teacher's cache in two processes: `torchrun --nproc_per_node 2 tests/ddp_cache.py DIR`; prints what differs.

Each process fills the cache with its part of the data; one process alone then finds all of it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sparsify import Manager, Recipe
from tests.modifiers.distill.students import bert
from tests.processes import leave

ROWS, BATCH, STEPS, EPOCHS = 64, 16, 4, 3
PRUNE = "  - {type: prune, criterion: movement, sparsity: 0.5}\n"


def train(student: nn.Module, ranks: list[int], body: str, **bindings: Any) -> Manager:
    """Train on the rows that `ranks` have of each batch, shuffled anew in each epoch."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    text = f"version: 1\nmodifiers:\n  - {{type: distill, {body}}}\n{PRUNE}"
    manager = Manager(Recipe.parse(text)).apply(
        student, optimizer, steps_per_epoch=STEPS, epochs=EPOCHS, teacher=bert(seed=1, hidden_size=24), **bindings
    )
    ids = torch.randint(2, 40, (ROWS, 6), generator=torch.Generator().manual_seed(5))
    for epoch in range(EPOCHS):
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(epoch)).view(STEPS, 2, BATCH // 2)
        for rows in order:
            mine = rows[ranks].flatten()
            manager.on_step_begin()
            optimizer.zero_grad()
            inputs = {"input_ids": ids[mine], "labels": mine % 3}
            outputs = student(**inputs)
            manager.on_loss(outputs.loss, outputs).backward()
            manager.on_before_optimizer_step()
            optimizer.step()
            manager.on_step_end()
    return manager


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    body = "logits: {temperature: 2}, cache: {}"
    student, alone = bert(), bert()
    manager = train(DistributedDataParallel(student), [rank], body, teacher_cache=folder)
    train(alone, [0, 1], body)
    pairs = zip(student.parameters(), alone.parameters(), strict=True)
    worst = max(float((mine - theirs).detach().abs().max()) for mine, theirs in pairs)
    counts = manager._runs[0].report()["cache"]
    manager.finalize()
    print(f"rank {rank} cached: agrees {worst < 1e-4} {counts}\n", end="", flush=True)
    dist.barrier()
    again = train(bert(), [0, 1], body, teacher_cache=folder)
    print(f"rank {rank} again: {again._runs[0].report()['cache']}\n", end="", flush=True)
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
