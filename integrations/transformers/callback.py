"""The manager's hooks at the Trainer's events.

on_init_end            structure, before any checkpoint is loaded; we come first among the callbacks
on_train_begin         apply; clipping is taken over; after a resume, our state from the same checkpoint
on_step_begin          manager.on_step_begin
on_pre_optimizer_step  manager.on_before_optimizer_step; clip, over masked gradients (the Trainer would clip before)
on_optimizer_step      manager.on_step_end
on_log                 sparsity and target beside the loss, for whatever logger the Trainer has
on_save                our state, then the marker that makes the checkpoint whole
on_train_end           the state of the checkpoint that was picked; finalize
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from sparsify import Density, Manager, PlanError, Recipe, StateError, checkpoint
from sparsify.integrations.transformers import checkpoints

STATE = "sparsify.pt"


class SparsifyCallback(TrainerCallback):
    """Trains under a recipe: `Trainer(…, callbacks=[SparsifyCallback("gmp", sparsity=0.9)])`.

    `recipe` is a Recipe, or its path or name, with values for its variables. `bindings` are the objects that it
    declares (a teacher). `best_below_target` lets `load_best_model_at_end` pick a checkpoint that is less sparse than
    the recipe asks for. `checkpoint` is where the run resumes from, if that is neither `output_dir/checkpoint-N` nor
    `args.resume_from_checkpoint`. `evaluate(model)` returns metrics; gates are measured with it before and after they
    become binary.

    After the training, `density` is what was counted in the tensors; `output_dir` has `recipe.yaml` and `report.json`.
    Errors are those of the manager: PlanError before the first step, SparsityError at the end if the model falls short.
    """

    def __init__(
        self,
        recipe: Recipe | str | Path,
        *,
        bindings: Mapping[str, Any] | None = None,
        best_below_target: bool = False,
        checkpoint: str | Path | None = None,
        evaluate: Callable[[Any], Mapping[str, float]] | None = None,
        **variables: Any,
    ) -> None:
        self.recipe = recipe.resolve(**variables) if isinstance(recipe, Recipe) else Recipe.load(recipe, **variables)
        self.bindings = dict(bindings or {})
        self.best_below_target = best_below_target
        self.checkpoint = checkpoint
        self.evaluate = evaluate
        self.manager = Manager(self.recipe)
        self.density: Density | None = None
        self._used = False
        self._max_norm: float | None = None
        """The Trainer's `max_grad_norm`, while it is taken over."""

        self._reached: int | None = None
        """The Trainer's step at which the last update had been made: from there on checkpoints are eligible."""

    # ------------------------------------------------------------------ before training

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Change the structure, if the recipe does; come first, so that loggers see our values."""
        self.manager.attach(model)
        _come_first(self)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        """Plan and attach; go on from our state in the checkpoint that the Trainer has resumed from."""
        if getattr(args, "deepspeed", None) or getattr(args, "fsdp", None):
            raise PlanError("DeepSpeed and FSDP shard the parameters, which sparsify does not support yet: use DDP")
        if self._used:
            self.manager = self.manager.again()
        self._used, self._reached, self.density = True, None, None
        if self._max_norm is None:  # else a training broke off before it could be given back
            self._max_norm = args.max_grad_norm
        args.max_grad_norm = 0.0
        self.manager.apply(
            model,
            optimizer,
            total_steps=state.max_steps,
            steps_per_epoch=_steps_per_epoch(train_dataloader, args),
            scaler=getattr(optimizer, "scaler", None),
            evaluate=self.evaluate,
            **self.bindings,
        )
        if state.global_step:
            self._resume(self._folder(args, state), state)
        self._note_reached(state)
        self._forget_early_best(state)

    def _resume(self, folder: Path, state: Any) -> None:
        checkpoints.check(folder)
        parts = checkpoint.load(folder / STATE)
        if parts.get("step") != state.global_step:
            raise StateError(f"{folder / STATE} is of step {parts.get('step')}, the Trainer is at {state.global_step}")
        self.manager.load_state_dict(parts["manager"])
        self._reached = parts["reached"]

    def _folder(self, args: Any, state: Any) -> Path:
        """Return the folder of the Trainer's checkpoint of this step."""
        name = f"checkpoint-{state.global_step}"
        places = [self.checkpoint, args.resume_from_checkpoint, Path(args.output_dir) / name]
        named = [Path(place) for place in places if isinstance(place, (str, Path)) and Path(place).name == name]
        trials = sorted(Path(args.output_dir).glob(f"run-*/{name}"), key=lambda path: path.stat().st_mtime)
        found = [place for place in [*named, *trials[-1:]] if place.is_dir()]
        if not found:
            raise StateError(
                f"the Trainer resumed at step {state.global_step}, but there is no {named[-1]}; "
                "say where the checkpoint lies: SparsifyCallback(…, checkpoint=…)"
            )
        return found[0]

    # ------------------------------------------------------------------ the step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin the transaction."""
        self._forget_early_best(state)
        self.manager.on_step_begin()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mask the gradients, then clip them."""
        self.manager.on_before_optimizer_step()
        if self._max_norm:
            self.manager.clip_grad_norm_(self._max_norm)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the transaction: new masks if they are due."""
        self.manager.on_step_end()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take notice of the last update."""
        self._note_reached(state)

    # ------------------------------------------------------------------ what the Trainer keeps and picks

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Add `sparsity` and `target_sparsity` to what is logged and to the history."""
        if not self._used or logs is None or "train_runtime" in logs:
            return
        values = {"sparsity": self.manager.sparsity}
        if self.manager.target is not None:
            values["target_sparsity"] = self.manager.target
        logs.update(values)
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(values)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Have a checkpoint written if the training is stopped too early, so that it can go on."""
        if control.should_training_stop and self.manager.step < self.manager.last_update:
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write our state into the Trainer's checkpoint, and the marker that it is whole."""
        _wait_for_all()  # each process writes its own random state into the folder
        if args.should_save and not args.save_only_model:
            folder = self._folder(args, state)
            state_dict = self.manager.state_dict()
            checkpoint.save(folder / STATE, step=state.global_step, reached=self._reached, manager=state_dict)
            checkpoints.mark(folder)
        self._forget_early_best(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Finalize what is in the model: the last weights, or those of the checkpoint that was picked."""
        args.max_grad_norm, self._max_norm = self._max_norm, None
        picked = state.best_model_checkpoint if args.load_best_model_at_end and not args.save_only_model else None
        if picked:
            self.manager.load_state_dict(checkpoint.load(Path(picked) / STATE)["manager"])
        directory = args.output_dir if args.should_save else None
        self.density = self.manager.finalize(directory, partial=bool(picked) and self.best_below_target)

    def _note_reached(self, state: Any) -> None:
        if self._reached is None and self.manager.step >= self.manager.last_update:
            self._reached = state.global_step

    def _forget_early_best(self, state: Any) -> None:
        """Forget a best metric that was measured below the target sparsity; early stopping then waits, too."""
        if self.best_below_target:
            return
        if self._reached is None or (state.best_global_step or self._reached) < self._reached:
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None


def _wait_for_all() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _steps_per_epoch(dataloader: Any, args: Any) -> int | None:
    """Return the optimizer steps of an epoch, as the Trainer counts them; None for data without a length."""
    try:
        return max(math.ceil(len(dataloader) / args.gradient_accumulation_steps), 1)
    except TypeError:
        return None


def _come_first(callback: TrainerCallback) -> None:
    """Move `callback` to the front of the handler that is calling it.

    The Trainer puts its loggers first and hands a callback neither itself nor its siblings, so the handler is read off
    the stack. Where it is not found, the order stays, and only loggers after us see our values.
    """
    frame = sys._getframe()
    while frame is not None:
        callbacks = getattr(frame.f_locals.get("self"), "callbacks", None)
        if isinstance(callbacks, list) and any(other is callback for other in callbacks):
            callbacks.remove(callback)
            callbacks.insert(0, callback)
            return
        frame = frame.f_back
