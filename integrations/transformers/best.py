"""Which checkpoint is the best one: never one below the target, one of another run, or one that is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsify import Manager, PlanError, StateError
from sparsify.integrations.common import checkpoints
from sparsify.integrations.transformers import states


def refuse(args: Any, below_target: bool) -> None:
    """Raise PlanError where the best checkpoint could not be told to be sparse: it would have no masks."""
    if args.load_best_model_at_end and args.save_only_model and below_target:
        raise PlanError(
            "best_below_target=True with save_only_model=True: a checkpoint below the target has its own masks, which "
            "save_only_model leaves out; use only one of them"
        )


def forget(state: Any) -> None:
    """Let the next evaluation be the best one."""
    state.best_metric = state.best_global_step = state.best_model_checkpoint = None


def forget_early(state: Any, reached: int | None) -> None:
    """Forget a best metric that was measured before step `reached`, when the target was; early stopping waits, too."""
    if reached is None or (state.best_global_step or reached) < reached:
        forget(state)


def find_again(state: Any, folder: Path, run: str) -> None:
    """After a resume: the best checkpoint, if it lies in `folder` as one of this run; else forget that there was one.

    The Trainer keeps its path, but the folder may have been moved, and checkpoints deleted, since.
    """
    if state.best_global_step is None:
        return
    here = folder / f"checkpoint-{state.best_global_step}"
    if state.best_model_checkpoint is not None:
        here = folder / Path(state.best_model_checkpoint).name
    if checkpoints.is_marked(here) and checkpoints.marker(here).run == run:
        state.best_model_checkpoint = str(here)
    else:
        forget(state)


def take_up(manager: Manager, folder: Path, run: str, *, model_only: bool) -> None:
    """Take the masks of the checkpoint that the Trainer has just loaded the weights of.

    Of checkpoints without them (`model_only`), those in force are: after the last update no mask changes. Raises
    StateError for a checkpoint that is gone, damaged or of another run.
    """
    if not folder.is_dir():
        raise StateError(
            f"{folder}, the best checkpoint, is gone: it was deleted during the training; "
            "the model has the last weights, under their masks"
        )
    if not model_only:
        checkpoints.check(folder, run)
        manager.load_state_dict(states.read(folder)["manager"], allow_changed_recipe=True)
