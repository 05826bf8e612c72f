"""The manager's hooks at the Trainer's events.

on_init_end            structure, before any checkpoint is loaded; we come first among the callbacks
on_train_begin         the folder is locked; apply; after a resume, our state from the same checkpoint
on_step_begin          manager.on_step_begin
(the Trainer clips)    manager.on_before_optimizer_step, then clipping, over masked gradients
(each forward)         manager.on_loss, by a hook on the model, where the recipe distils
on_optimizer_step      manager.on_step_end
on_log                 sparsity and target beside the loss, for whatever logger the Trainer has
on_save                our state, then the marker that makes the checkpoint whole
on_train_end           the state of the checkpoint that was picked; finalize
                       a pruned base is saved beside its adapters
(an exception)         manager.detach: the model is sparse, the lock is free, and a training can begin anew
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from sparsify import Density, HookError, Manager, PlanError, Recipe, StateError, checkpoint, lock, ranks
from sparsify.integrations.common import checkpoints, loss_hook
from sparsify.integrations.common.metrics import metrics
from sparsify.integrations.transformers import base, best, loss, states
from sparsify.integrations.transformers.surroundings import Clipping, Within, come_first, trainer_of, watch


class SparsifyCallback(TrainerCallback):
    """Trains under a recipe: `Trainer(…, callbacks=[SparsifyCallback("gmp", sparsity=0.9)])`.

    `recipe` is a Recipe, or its path or name, with values for its variables. `bindings` are the objects that it
    declares (a teacher). `best_below_target` lets `load_best_model_at_end` pick a checkpoint that is less sparse than
    the recipe asks for. `checkpoint` is where the run resumes from, if that is neither `output_dir/checkpoint-N` nor
    `args.resume_from_checkpoint`. `evaluate(model)` returns metrics; gates are measured with it before and after they
    become binary. `allow_changed_recipe` resumes from a checkpoint of another recipe or another length of training.
    `run` names the run in its checkpoints; by default it is given a name, which a resumed run keeps.

    After the training, `density` is what was counted in the tensors; `output_dir` has `recipe.yaml` and `report.json`,
    and `base`, the pruned model under adapters (PEFT), which the Trainer leaves out of what it saves.
    Errors are those of the manager: PlanError before the first step, StateError where a checkpoint is damaged or does
    not belong here, SparsityError at the end if the model falls short; TrainingError if another process trains in
    `output_dir`.
    """

    def __init__(
        self,
        recipe: Recipe | str | Path,
        *,
        bindings: Mapping[str, Any] | None = None,
        best_below_target: bool = False,
        checkpoint: str | Path | None = None,
        evaluate: Callable[[Any], Mapping[str, float]] | None = None,
        allow_changed_recipe: bool = False,
        run: str | None = None,
        **variables: Any,
    ) -> None:
        self.recipe = recipe.resolve(**variables) if isinstance(recipe, Recipe) else Recipe.load(recipe, **variables)
        self.bindings = dict(bindings or {})
        self.best_below_target = best_below_target
        self.checkpoint = checkpoint
        self.evaluate = evaluate
        self.allow_changed_recipe = allow_changed_recipe
        self.run = run or checkpoints.new_run()
        self.manager = Manager(self.recipe)
        self.density: Density | None = None
        self._model: Any = None
        self._used = False
        self._clipping: Clipping | None = None
        self._evaluating: Within | None = None
        self._lock: lock.FolderLock | None = None
        self._loss: Any = None
        """The handle of the hook that gives losses to the manager."""

        self._base: base.Beside | None = None
        """What saves the base under adapters, where the recipe prunes there."""

        self._masked = False
        """Whether the gradients of this step are masked already."""

        self._reached: int | None = None
        """The Trainer's step at which the last update had been made: from there on checkpoints are eligible."""

    # ------------------------------------------------------------------ before training

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Change the structure, if the recipe does; come first, so that loggers see our values."""
        if self._used:  # by a Trainer before this one
            self._break_off()
            self._used, self.manager = False, self.manager.again()
        if model is not self._model:
            saved = states.given(self.checkpoint, getattr(args, "resume_from_checkpoint", None))
            self.manager.attach(model, state=saved, **self.bindings)
            self._model = model
        if (trainer := trainer_of(self, args)) is not None:
            come_first(trainer, self)
            watch(trainer, self._break_off)

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
        best.refuse(args, self.best_below_target)
        if self._used:  # a training before this one, which may have broken off
            self._break_off()
            self.manager = self.manager.again()
        self._used, self._reached, self._masked, self.density = True, None, False, None
        try:
            self._begin(args, state, model, optimizer, train_dataloader)
        except BaseException:
            self._break_off()
            raise

    def _begin(self, args: Any, state: Any, model: Any, optimizer: Any, train_dataloader: Any) -> None:
        parts = self._resumed(args, state) if state.global_step else None
        self.run = ranks.from_first(lambda: self.run)
        self._reserve(args, state, resumed=parts is not None)
        for key in self.manager.loss_modifiers:
            loss.refuse(args, trainer_of(self, args), key)
        self.manager.apply(
            model,
            optimizer,
            total_steps=state.max_steps,
            steps_per_epoch=_steps_per_epoch(train_dataloader, args),
            scaler=getattr(optimizer, "scaler", None),
            evaluate=self.evaluate,
            **self.bindings,
        )
        self._base = base.beside(self.manager, args, below_target=self.best_below_target)
        if parts is not None:
            self.manager.load_state_dict(parts["manager"], allow_changed_recipe=self.allow_changed_recipe)
            same = parts["manager"].get("sha256") == self.manager.plan.recipe.sha256
            self._reached = parts["reached"] if same and self.manager.step >= self.manager.last_update else None
            best.find_again(state, Path(args.output_dir), self.run)
        self._note_reached(state)
        self._forget_early_best(state)
        if self.manager.loss_modifiers:
            self._loss = loss_hook.attach(self.manager.model, self.manager.on_loss)
        if (trainer := trainer_of(self, args)) is not None:
            watch(trainer, self._break_off)
            self._clipping = Clipping(trainer, self._clip)
            self._evaluating = Within(trainer, "evaluate", self.manager.sparse_copy)

    def _resumed(self, args: Any, state: Any) -> dict[str, Any]:
        """Return our part of the checkpoint that the Trainer has resumed from; take over the name of its run."""
        folder = states.resumed_from(args, state, (self.checkpoint, args.resume_from_checkpoint))
        self.run = checkpoints.check(folder).run
        parts = states.read(folder)
        if parts["step"] != state.global_step:
            raise StateError(f"{folder}: our state is of step {parts['step']}, the Trainer is at {state.global_step}")
        if state.global_step > state.max_steps:
            raise StateError(f"{folder} is of step {state.global_step}, but this training ends at {state.max_steps}")
        return parts

    def _reserve(self, args: Any, state: Any, *, resumed: bool) -> None:
        """Lock the folder, and refuse one with checkpoints of another run: they would be taken for ours one day."""
        if args.process_index != 0 or state.is_hyper_param_search:  # trials may run side by side, in folders of theirs
            return
        self._lock = lock.FolderLock(args.output_dir, "choose another output_dir")
        if args.save_strategy != "no":
            other = "choose another output_dir" if resumed else "resume from them, or choose another output_dir"
            checkpoints.refuse_others(args.output_dir, self.run, f"remove them, {other}")

    # ------------------------------------------------------------------ the step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin the transaction."""
        self._forget_early_best(state)
        self.manager.on_step_begin()
        self._masked = False

    def _clip(self, max_norm: float) -> Tensor:
        """Mask the gradients, then clip them; return the norm before."""
        if not self._masked:
            self.manager.on_before_optimizer_step()
            self._masked = True
        return self.manager.clip_grad_norm_(max_norm)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mask the gradients, if the Trainer has not clipped them."""
        if self._masked:
            return
        if not args.max_grad_norm:
            self.manager.on_before_optimizer_step()
        elif self._clipping is None:  # no Trainer was found: the events are called by a loop that leaves clipping to us
            self._clip(args.max_grad_norm)
        else:
            raise HookError(
                "the gradients were clipped before they were masked: this Trainer clips in its own way; "
                "let it call accelerator.clip_grad_norm_, or give max_grad_norm=0"
            )

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the transaction: new masks if they are due."""
        self.manager.on_step_end()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take notice of the last update."""
        self._note_reached(state)

    # ------------------------------------------------------------------ what the Trainer keeps and picks

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Add `sparsity`, `target_sparsity` and, where the recipe sets it, `effective_learning_rate` to what is logged.

        The Trainer's own `learning_rate` is that of its scheduler.
        """
        if not self._used or logs is None or "train_runtime" in logs:
            return
        values = metrics(self.manager)
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
        ranks.wait()  # each process writes its own random state into the folder
        if args.should_save and self._base is not None:
            self._base.in_checkpoint(states.written_to(args, state), reached=self._reached is not None)
        if args.should_save and not args.save_only_model:
            folder, state_dict = states.written_to(args, state), self.manager.state_dict()
            checkpoint.save(folder / states.STATE, step=state.global_step, reached=self._reached, manager=state_dict)
            checkpoints.mark(folder, self.run)
        self._forget_early_best(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Finalize what is in the model: the last weights, or those of the checkpoint that was picked."""
        picked = state.best_model_checkpoint if args.load_best_model_at_end else None
        try:
            if picked:
                best.take_up(self.manager, Path(picked), self.run, model_only=args.save_only_model)
            directory = args.output_dir if args.should_save else None
            self.density = self.manager.finalize(directory, partial=bool(picked) and self.best_below_target)
            if args.should_save and self._base is not None:
                self._base.save()
        finally:
            self._break_off()

    def _break_off(self) -> None:
        """Give back what the training had: the model under its masks, the Trainer's clipping, the folder."""
        for stand_in in (self._clipping, self._evaluating):
            if stand_in is not None:
                stand_in.end()
        if self._lock is not None:
            self._lock.release()
        if self._loss is not None:
            self._loss.remove()
        self._clipping = self._evaluating = self._lock = self._loss = None
        self.manager.detach()

    def _note_reached(self, state: Any) -> None:
        if self._reached is None and self.manager.step >= self.manager.last_update:
            self._reached = state.global_step

    def _forget_early_best(self, state: Any) -> None:
        if not self.best_below_target:
            best.forget_early(state, self._reached)


def _steps_per_epoch(dataloader: Any, args: Any) -> int | None:
    """Return the optimizer steps of an epoch, as the Trainer counts them; None for data without a length."""
    try:
        return max(math.ceil(len(dataloader) / args.gradient_accumulation_steps), 1)
    except TypeError:
        return None
