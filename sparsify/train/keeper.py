"""What keeps a run safe: whole checkpoints, two of them; a stop on request; no step with a loss that is no number."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from sparsify import ranks
from sparsify.errors import StateError, TrainingError
from sparsify.integrations.common import checkpoints
from sparsify.integrations.transformers import best

KEPT = 2
"""Whole checkpoints that are kept beside the best one: the last, and the one before while the last is written."""

LOOK = 10
"""Steps after which several processes ask each other whether one was asked to stop."""

OTHERS = "remove them, or choose another --out"


class Stopped(Exception):  # noqa: N818 (not an error)
    """The run was asked to stop; its state is saved."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class Keeper(TrainerCallback):  # type: ignore[misc]
    """Marks checkpoints as whole, deletes old ones, and stops where it is asked to or has to.

    `run` is the name of the run; `begun()` is called when the training begins, and nothing can be refused any more.
    """

    def __init__(self, run: str, begun: Callable[[], None] = lambda: None) -> None:
        self.run, self.begun = run, begun
        self.asked = self.stopping = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the first SIGINT or SIGTERM for a wish to save and stop; the second acts as ever.

        Where several processes train, it is none: a launcher sends more than one, and kills those that are too slow.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def stop(number: int, frame: Any) -> None:
            self.asked = True
            if ranks.count() > 1:
                return
            for each, handler in before.items():
                signal.signal(each, handler)

        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Watch the loss of every forward of the training."""
        best.find_again(state, Path(args.output_dir), self.run)
        self.begun()

        def check(module: Any, inputs: Any, output: Any) -> None:
            loss = getattr(output, "loss", None)
            if module.training and loss is not None and not math.isfinite(loss.item()):
                raise TrainingError(f"the loss is {loss.item()} in step {state.global_step + 1}{_hint(args, state)}")

        self.handle = model.register_forward_hook(check)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Have a checkpoint written if a stop is wanted."""
        if ranks.count() == 1 or state.global_step % LOOK == 0:
            self.stopping = ranks.any_of(self.asked)
        control.should_save |= self.stopping
        return control

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Mark the checkpoint and delete old ones, in the first process; stop if that is wanted, in all."""
        ranks.wait()  # each process writes its random state into the folder
        ranks.from_first(lambda: self._tidy(args, state, model))
        if self.stopping:
            raise Stopped(state.global_step)

    def _tidy(self, args: Any, state: Any, model: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for name, parameter in model.named_parameters():
            if not torch.isfinite(parameter.detach()).all():
                checkpoints.remove(folder)
                raise TrainingError(f"{name} is not finite after step {state.global_step}{_hint(args, state)}")
        if not checkpoints.is_marked(folder):
            checkpoints.mark(folder, self.run)
        picked = Path(state.best_model_checkpoint).name if state.best_model_checkpoint else ""
        checkpoints.refuse_others(args.output_dir, self.run, OTHERS)
        for old in [path for path in checkpoints.checkpoints(args.output_dir) if checkpoints.is_marked(path)][:-KEPT]:
            if old.name != picked:
                checkpoints.remove(old)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop watching; see that the checkpoint that was picked is there, and of this run."""
        self.handle.remove()
        if args.load_best_model_at_end and state.best_model_checkpoint:
            picked = Path(state.best_model_checkpoint)
            if checkpoints.marker(picked).run != self.run:
                raise StateError(f"{picked}, the best checkpoint, is of another run")


def _hint(args: Any, state: Any) -> str:
    last = checkpoints.last_whole(args.output_dir)
    kept = f"; the last good checkpoint is {last}" if last else "; there is no checkpoint yet"
    rate = next((entry["learning_rate"] for entry in reversed(state.log_history) if "learning_rate" in entry), None)
    now = f" (it is {rate:.2g} now)" if rate else ""
    return f"{kept}. Try a lower --lr{now}, a longer --warmup, or look at the data"
