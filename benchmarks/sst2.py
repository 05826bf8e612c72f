"""Fine-tune a real encoder on SST-2 under a recipe, in a bare loop; accuracy on dev, after every epoch.

AdamW 8e-5 with warm-up and linear decay, batch 32, length-bucketed, embeddings frozen.

    python benchmarks/sst2.py --model DIR --data DIR [--recipe gmp --set sparsity=0.8 …] [--epochs 5] [--seed 0]

`--data` holds `train.tsv` and `dev.tsv`: `label<TAB>sentence`, no header. Without a recipe it trains densely.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch
from machine import machine
from torch import Tensor, nn

from sparsify import Manager
from sparsify.cli.common import parse_sets

Batch = dict[str, Tensor]


def read(path: Path) -> list[tuple[int, str]]:
    """Return (label, sentence) of every line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(int(label), sentence) for label, sentence in (line.split("\t", 1) for line in lines)]


def batches(rows: list[tuple[int, str]], tokenizer: Any, chance: random.Random | None) -> list[Batch]:
    """Return batches of 32 of similar length, shuffled if there is chance."""
    encoded = [(label, tokenizer(text, truncation=True, max_length=64)["input_ids"]) for label, text in rows]
    if chance:
        chance.shuffle(encoded)
        pools = [encoded[i : i + 32 * 32] for i in range(0, len(encoded), 32 * 32)]
    else:
        pools = [encoded]
    ordered = [row for pool in pools for row in sorted(pool, key=lambda row: len(row[1]))]
    made = []
    for start in range(0, len(ordered), 32):
        part = ordered[start : start + 32]
        padded = tokenizer.pad({"input_ids": [ids for _, ids in part]}, return_tensors="pt")
        made.append({**padded, "labels": torch.tensor([label for label, _ in part])})
    if chance:
        chance.shuffle(made)
    return made


@torch.no_grad()
def accuracy(model: nn.Module, data: list[Batch]) -> float:
    """Return the fraction classified rightly."""
    model.eval()
    right = sum(int((model(**batch).logits.argmax(1) == batch["labels"]).sum()) for batch in data)
    model.train()
    return right / sum(len(batch["labels"]) for batch in data)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe")
    parser.add_argument("--set", action="append")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging

    logging.set_verbosity_error()
    torch.manual_seed(arguments.seed)
    chance = random.Random(arguments.seed)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=2)
    model.base_model.embeddings.requires_grad_(False)
    rows, dev = read(arguments.data / "train.tsv"), batches(read(arguments.data / "dev.tsv"), tokenizer, None)
    per_epoch = -(-len(rows) // 32)
    steps = arguments.epochs * per_epoch
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=8e-5)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.06 * steps), (steps - step) / (0.94 * steps))
    )
    manager = Manager.from_recipe(arguments.recipe, **parse_sets(arguments.set)) if arguments.recipe else None
    if manager:
        manager.apply(model, optimizer, steps_per_epoch=per_epoch, epochs=arguments.epochs)
        print(manager.plan.headline())
    start = time.perf_counter()
    for epoch in range(arguments.epochs):
        for batch in batches(rows, tokenizer, chance):
            if manager:
                manager.on_step_begin()
            model(**batch).loss.backward()
            if manager:
                manager.on_before_optimizer_step()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if manager:
                manager.on_step_end()
        print(
            f"epoch {epoch + 1}: dev {accuracy(model, dev):.2%}, sparsity {manager.sparsity if manager else 0:.2%}, "
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )
    if manager:
        print(f"targeted weights: {manager.finalize().targeted}")
    print(f"{steps} steps, {(time.perf_counter() - start) / steps:.3f} s a step; {machine()}")


if __name__ == "__main__":
    main()
