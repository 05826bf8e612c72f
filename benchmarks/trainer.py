"""What the callback costs the stock Trainer: step time with it ÷ without, the two taking turns in one process.

    python benchmarks/trainer.py [--rounds 8] [--steps 36] [--every 10] [--recipe gmp]

MiniLM's shape (6 layers, width 384), batch 32 × 32 tokens, AdamW, clipping at 1. A round is `steps` steps of each; the
first of a round is left out (it pays for planning and the first mask), as is the first round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments, logging

from sparsify import Recipe
from sparsify.benchmarking.machine import machine
from sparsify.integrations.transformers import SparsifyCallback

BATCH, LENGTH = 32, 32


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Random tokens."""

    def __init__(self, count: int) -> None:
        self.tokens = torch.randint(5, 30_000, (count, LENGTH), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": self.tokens[row], "labels": row % 2}


class Clock(TrainerCallback):
    """Notes when a step ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Take the time."""
        self.times.append(time.perf_counter())


def timed(model: torch.nn.Module, steps: int, recipe: Recipe | None, folder: str) -> list[float]:
    """Return the seconds of every step but the first."""
    clock = Clock()
    callbacks: list[TrainerCallback] = [SparsifyCallback(recipe)] if recipe else []
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            save_strategy="no",
            logging_steps=10,
            disable_tqdm=True,
            report_to="none",
            dataloader_pin_memory=False,
        ),
        train_dataset=Rows(BATCH * steps),
        callbacks=[*callbacks, clock],
    )
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--recipe", default="gmp")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    torch.manual_seed(0)
    models = [BertForSequenceClassification(config) for _ in range(2)]
    recipe = Recipe.load(arguments.recipe, every=arguments.every)
    ratios, dense = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds + 1):
            order = (0, 1) if number % 2 else (1, 0)
            spent = {which: timed(models[which], arguments.steps, recipe if which else None, folder) for which in order}
            if number:
                dense.append(statistics.median(spent[0]))
                ratios.append(sum(spent[1]) / sum(spent[0]))
                print(f"round {number}: {ratios[-1]:.3f} (dense step {dense[-1]:.3f} s)", flush=True)
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"\n{machine()}\nwith ÷ without: median {middle:.3f}, quartiles {low:.3f} to {high:.3f}")
    rounds = f"{arguments.rounds} rounds of {arguments.steps} steps"
    print(f"{arguments.recipe}, every {arguments.every}; dense step {statistics.median(dense):.3f} s; {rounds}")


if __name__ == "__main__":
    main()
