"""What each integration costs: a training step with the recipe ÷ the same loop's dense step, the two taking turns.

    python benchmarks/integrations.py [--rounds 6] [--steps 24] [--every 10] [--layers 4]

BERT of width 256, batch 16 × 32 tokens, AdamW, clipping at 1, CPU. A round is `steps` steps of each; the first step of
a round is left out (it pays for planning), as is the first round.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments
from transformers import logging as transformers_logging

from sparsify import Manager, Recipe
from sparsify.benchmarking.machine import machine

BATCH, LENGTH = 16, 32


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Random tokens."""

    def __init__(self, count: int) -> None:
        self.tokens = torch.randint(5, 2000, (count, LENGTH), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": self.tokens[row], "labels": row % 2}


def loader(steps: int) -> Any:
    """Return as many batches as there are steps."""
    return torch.utils.data.DataLoader(Rows(BATCH * steps), batch_size=BATCH, generator=torch.Generator())


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of all loops."""
    return torch.optim.AdamW(model.parameters(), lr=5e-5)


def plain(model: nn.Module, steps: int, recipe: Recipe | None, folder: str) -> list[float]:
    """Return when each step of a hand-written loop ended."""
    times, optimizer = [], adamw(model)
    manager = Manager(recipe).apply(model, optimizer, total_steps=steps) if recipe else None
    for batch in loader(steps):
        if manager:
            manager.on_step_begin()
        optimizer.zero_grad()
        model(**batch).loss.backward()
        if manager:
            manager.on_before_optimizer_step()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if manager:
            manager.on_step_end()
        times.append(time.perf_counter())
    if manager:
        manager.finalize()
    return times


def accelerate(model: nn.Module, steps: int, recipe: Recipe | None, folder: str) -> list[float]:
    """Return when each step of a loop with Accelerate ended."""
    from accelerate import Accelerator

    accelerator, times = Accelerator(cpu=True), []
    prepared, optimizer, batches = accelerator.prepare(model, adamw(model), loader(steps))
    manager = Manager(recipe).apply(prepared, optimizer, total_steps=steps) if recipe else None
    for batch in batches:
        with accelerator.accumulate(prepared):
            if manager:
                manager.on_step_begin()
            accelerator.backward(prepared(**batch).loss)
            if manager:
                manager.on_before_optimizer_step()
                manager.clip_grad_norm_(1.0)
            else:
                accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if manager:
                manager.on_step_end()
        times.append(time.perf_counter())
    if manager:
        manager.finalize()
    return times


def transformers(model: nn.Module, steps: int, recipe: Recipe | None, folder: str) -> list[float]:
    """Return when each step of the Trainer ended."""
    from transformers import PrinterCallback

    from sparsify.integrations.transformers import SparsifyCallback

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    options: dict[str, Any] = {"per_device_train_batch_size": BATCH, "max_steps": steps, "save_strategy": "no"}
    args = TrainingArguments(folder, report_to="none", disable_tqdm=True, use_cpu=True, **options)
    callbacks: list[TrainerCallback] = [SparsifyCallback(recipe)] if recipe else []
    trainer = Trainer(model, args, train_dataset=Rows(BATCH * steps), callbacks=[*callbacks, Clock()])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return times


def lightning(model: nn.Module, steps: int, recipe: Recipe | None, folder: str) -> list[float]:
    """Return when each step of Lightning's Trainer ended."""
    import lightning.pytorch as pl

    from sparsify.integrations.lightning import SparsifyCallback

    times: list[float] = []

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.train()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.model(**batch).loss  # type: ignore[no-any-return]

        def on_train_batch_end(self, *_: Any) -> None:
            times.append(time.perf_counter())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adamw(self.model)

    silent = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    callbacks = [SparsifyCallback(recipe)] if recipe else []
    pl.Trainer(max_steps=steps, gradient_clip_val=1.0, callbacks=callbacks, **silent).fit(Module(), loader(steps))
    return times


LOOPS: dict[str, Callable[[nn.Module, int, Recipe | None, str], list[float]]] = {
    "plain": plain,
    "transformers": transformers,
    "accelerate": accelerate,
    "lightning": lightning,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--layers", type=int, default=4)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    config = BertConfig(hidden_size=256, num_hidden_layers=arguments.layers, num_attention_heads=4,
                        intermediate_size=1024, vocab_size=2000)  # fmt: skip
    torch.manual_seed(0)
    recipe = Recipe.load("gmp", every=arguments.every)
    ratios: dict[str, list[float]] = {name: [] for name in LOOPS}
    dense: dict[str, list[float]] = {name: [] for name in LOOPS}
    for number in range(arguments.rounds + 1):
        for name, loop in LOOPS.items():
            spent = {}
            for sparse in (False, True) if number % 2 else (True, False):
                with tempfile.TemporaryDirectory() as folder:
                    torch.manual_seed(0)
                    times = loop(
                        BertForSequenceClassification(config).train(),
                        arguments.steps,
                        recipe if sparse else None,
                        str(Path(folder)),
                    )
                spent[sparse] = [after - before for before, after in itertools.pairwise(times)]
            if number:
                ratios[name].append(statistics.median(spent[True]) / statistics.median(spent[False]))
                dense[name].append(statistics.median(spent[False]))
    print(machine())
    print(f"gmp, every {arguments.every}; {arguments.rounds} rounds of {arguments.steps} steps; with ÷ without")
    for name in LOOPS:
        low, middle, high = statistics.quantiles(ratios[name], n=4)
        seconds = statistics.median(dense[name])
        print(f"{name:12}  median {middle:.3f}, quartiles {low:.3f} to {high:.3f}  (dense step {seconds:.3f} s)")


if __name__ == "__main__":
    main()
