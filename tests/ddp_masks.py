"""Masks in two processes against one: `torchrun --nproc_per_node 2 tests/ddp_masks.py KIND`; prints what differs."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparsify import Manager, Recipe
from tests.processes import leave

STEPS = 24
LEARNED = "scope: global, sparsity: 0.75, window: {begin: 2, end: 18}"
MODIFIERS = {
    "learned": {
        "hard": f"type: prune, criterion: {{type: movement, learning_rate: 0.05}}, {LEARNED}",
        "soft": f"type: prune, criterion: {{type: soft-movement, learning_rate: 0.2}}, {LEARNED}",
        "l0": f"type: prune, criterion: {{type: hard-concrete, learning_rate: 0.8}}, {LEARNED}",
    },
    "substitute": {
        "nonorm": "type: substitute, norms: nonorm, window: {begin: 2, end: 18}",
    },
    "regrow": {
        "rigl": "type: regrow, sparsity: 0.75, window: {end: 18, every: 2}",
        "set": "type: regrow, sparsity: 0.75, grow: random, window: {end: 18, every: 2}",
        "granet": "type: regrow, sparsity: {from: 0.2, to: 0.75}, scope: global, fraction: 0.5, window: {end: 18, every: 2}",
        "ac-dc": "type: regrow, sparsity: 0.75, grow: everything, scope: global, dense: 2, window: {begin: 2, end: 18, every: 4}",
    },
}


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    norms = [nn.LayerNorm(32)] if kind == "substitute" else []
    return nn.Sequential(nn.Linear(16, 32), *norms, nn.ReLU(), nn.Linear(32, 4)).double()


def train(model: nn.Module, modifier: str, ranks: list[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Train on the parts of every batch that `ranks` have, in two micro-batches; return weights and masks."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    manager = Manager(Recipe.parse(f'version: 1\nmodifiers:\n  - {{targets: "*", {modifier}}}\n')).attach(model)
    if len(ranks) == 1:
        model = DistributedDataParallel(model)
    manager.apply(model, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        batch = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(step), dtype=torch.float64)[ranks]
        manager.on_step_begin()
        optimizer.zero_grad()
        for part in batch.split(4, dim=1):
            ((model(part.flatten(0, 1)) - 0.3).square().mean() / 2).backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    manager.finalize()
    return [p.detach() for p in model.parameters()], [masked.mask for masked in manager._masks]


def main(kind: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for name, modifier in MODIFIERS[kind].items():
        weights, masks = train(build(kind), modifier, [rank])
        alone, others = train(build(kind), modifier, [0, 1])
        worst = max(float((mine - theirs).abs().max()) for mine, theirs in zip(weights, alone, strict=True))
        bits = sum(int((mine != theirs).sum()) for mine, theirs in zip(masks, others, strict=True))
        print(f"rank {rank} {name}: weights {worst:.1e}, mask bits {bits}\n", end="", flush=True)
    leave()


if __name__ == "__main__":
    main(sys.argv[1])
