"""What the terminal shows while a model is trained: a bar with sparsity and time left, a line at every evaluation."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence, Sized
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

from sparsify.escaping import visible
from sparsify.progress import told

SHOWN = 2
"""Metrics in a line."""
REFRESH = 0.5
"""Seconds between two looks at the sparsity."""
EVERY = 60.0
"""Seconds between two lines where there is no terminal, beside those of evaluations."""


def show(console: Console, text: str, **style: Any) -> None:
    """Print text as it is: no markup, no control characters, whatever console a user gives.

    A console that nobody reads any more (`sparsify train … | head`), or that has no such letters, ends no training.
    """
    known = visible(text).encode(console.encoding, "backslashreplace").decode(console.encoding)
    try:
        console.print(known, markup=False, highlight=False, emoji=False, **style)
    except (OSError, SystemExit):  # rich ends the process when a pipe breaks, its older versions do not
        console.quiet = True
        if console.file is sys.stdout:  # what is left in its buffer has nowhere to go
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Display(TrainerCallback):  # type: ignore[misc]
    """Shows steps, loss, sparsity and time left; `sparsity` is asked for at most twice a second."""

    def __init__(self, console: Console, metrics: Sequence[str], sparsity: Callable[[], float] | None) -> None:
        self.console, self.metrics, self.sparsity = console, metrics[:SHOWN], sparsity
        steps = (
            TextColumn("{task.fields[shown]}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("steps,"),
        )
        times = (TimeElapsedColumn(), TextColumn("gone,"), TimeRemainingColumn(), TextColumn("left"))
        self.progress = Progress(*steps, *times, console=console, transient=True)
        self.loss = float("nan")
        self.looked = 0.0
        self.batches = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the bar."""
        self.bar = self.progress.add_task("", total=state.max_steps, completed=state.global_step, shown="training")
        self.begun, self.first, self.told = time.monotonic(), state.global_step, time.monotonic()
        if self.console.is_terminal:
            self.progress.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance."""
        now = time.monotonic()
        self.progress.update(self.bar, completed=state.global_step)
        if self.console.is_terminal and now - self.looked > REFRESH:
            self.looked = now
            self.progress.update(self.bar, shown=self._shown())
        elif not self.console.is_terminal and now - self.told >= EVERY:
            self.told = now
            done = told(state.global_step - self.first, state.max_steps - self.first, now - self.begun)
            show(self.console, f"step {state.global_step:>6} of {state.max_steps}: {self._shown()}; {done}")

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any) -> None:
        """Count the batches of an evaluation."""
        self.batches += 1
        if self.console.is_terminal and time.monotonic() - self.looked > REFRESH:
            self.looked = time.monotonic()
            total = len(eval_dataloader) if isinstance(eval_dataloader, Sized) else None
            of = f" of {total:,}" if total else ""
            self.progress.update(self.bar, shown=f"evaluating, batch {self.batches:,}{of}")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Take up the loss."""
        self.loss = (logs or {}).get("loss", self.loss)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """Print a line."""
        self.batches, self.looked, self.told = 0, 0.0, time.monotonic()
        found = {key.removeprefix("eval_"): value for key, value in (metrics or {}).items()}
        text = ", ".join(f"{key} {found[key]:.4f}" for key in dict.fromkeys((*self.metrics, "loss")) if key in found)
        show(self.console, f"step {state.global_step:>6}, epoch {state.epoch or 0:5.2f}: {text}; {self._shown()}")

    def stop(self) -> None:
        """Take the bar away."""
        self.progress.stop()

    def _shown(self) -> str:
        loss = f"training loss {self.loss:.3f}" if self.loss == self.loss else "training"
        return loss if self.sparsity is None else f"{loss}, sparsity {self.sparsity():6.2%}"
