"""Learned masks in two processes against one: `torchrun --nproc_per_node 2 tests/ddp_learned.py`; prints what differs."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparsify import Manager, Recipe

STEPS = 24
CRITERIA = {
    "hard": "{type: movement, learning_rate: 0.05}",
    "soft": "{type: soft-movement, learning_rate: 0.2}",
    "l0": "{type: hard-concrete, learning_rate: 0.8}",
}


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).double()


def train(model: nn.Module, criterion: str, ranks: list[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Train on the parts of every batch that `ranks` have; return weights and masks."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    text = (
        f'version: 1\nmodifiers:\n  - {{type: prune, targets: "*", criterion: {criterion}, scope: global, '
        "sparsity: 0.75, window: {begin: 2, end: 18}}\n"
    )
    manager = Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        batch = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(step), dtype=torch.float64)[ranks]
        manager.on_step_begin()
        optimizer.zero_grad()
        (model(batch.flatten(0, 1)) - 0.3).square().mean().backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    manager.finalize()
    return [p.detach() for p in model.parameters()], [masked.mask for masked in manager._masks]


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for name, criterion in CRITERIA.items():
        weights, masks = train(DistributedDataParallel(build()), criterion, [rank])
        alone, others = train(build(), criterion, [0, 1])
        worst = max(float((mine - theirs).abs().max()) for mine, theirs in zip(weights, alone, strict=True))
        bits = sum(int((mine != theirs).sum()) for mine, theirs in zip(masks, others, strict=True))
        print(f"rank {rank} {name}: weights {worst:.1e}, mask bits {bits}\n", end="", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
