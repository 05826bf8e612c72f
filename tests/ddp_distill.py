"""Distillation in two processes against one: `torchrun --nproc_per_node 2 tests/ddp_distill.py`; prints what differs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sparsify import Manager
from tests.modifiers.distill.students import bert, recipe
from tests.processes import leave

STEPS = 8
BODY = "logits: {temperature: 2}, hidden: {loss: mse, learning_rate: 0.01}, hardness: 0.7"
MORE = "  - {type: prune, criterion: movement, scope: global, sparsity: 0.5}\n"


def train(wrap: bool, ranks: list[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Train on the parts of every batch that `ranks` have; return weights and projections."""
    student: Any = bert()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    model = DistributedDataParallel(student) if wrap else student
    manager = Manager(recipe(BODY, MORE)).apply(
        model, optimizer, total_steps=STEPS, teacher=bert(seed=1, hidden_size=24)
    )
    for step in range(STEPS):
        made = torch.Generator().manual_seed(step)
        ids = torch.randint(2, 40, (2, 4, 6), generator=made)[ranks].flatten(0, 1)
        labels = torch.randint(3, (2, 4), generator=made)[ranks].flatten()
        manager.on_step_begin()
        optimizer.zero_grad()
        outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
        manager.on_loss(outputs.loss, outputs).backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    matrices = manager.state_dict()["modifiers"]["distill"]["projections"]["hidden"]["matrices"]
    return [p.detach() for p in student.parameters()], list(matrices.values())


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    weights, matrices = train(True, [rank])
    alone, wanted = train(False, [0, 1])
    worst = max(float((mine - theirs).abs().max()) for mine, theirs in zip(weights, alone, strict=True))
    far = max(float((mine - theirs).abs().max()) for mine, theirs in zip(matrices, wanted, strict=True))
    total = torch.cat([each.flatten() for each in (*weights, *matrices)])
    both = [torch.empty_like(total) for _ in range(2)]
    dist.all_gather(both, total)
    print(f"rank {rank}: weights {worst:.1e}, projections {far:.1e}, alike {torch.equal(*both)}\n", end="", flush=True)
    leave()


if __name__ == "__main__":
    main()
