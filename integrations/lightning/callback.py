"""The manager's hooks at the events of Lightning's Trainer.

setup                      we come first among the callbacks; structure, before DDP and before a checkpoint is loaded
on_train_start             apply, with the optimizers as they are; after a resume, our state from the checkpoint
on_train_batch_start … on_train_batch_end      the step: see `steps`
(each forward)             manager.on_loss, by a hook on the model, or where the module calls `on_loss(self, …)`
on_validation_start, _end  manager.sparse_copy; averages of weights are put under the masks
state_dict                 our part of Lightning's checkpoints
on_train_end               finalize
on_exception               manager.detach: the model is sparse, and a training can begin anew
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparsify import Density, HookError, Manager, Recipe, StateError, lock
from sparsify.integrations.common import loss_hook, randomness
from sparsify.integrations.common.metrics import metrics
from sparsify.integrations.lightning import others
from sparsify.integrations.lightning.model import Which, length, trained
from sparsify.integrations.lightning.package import lightning
from sparsify.integrations.lightning.steps import Steps, optimizers_of

_TWICE = (
    "on_loss() was called for a loss that has the terms of the teacher already: the model's outputs.loss gets them by "
    "itself; leave on_loss() out of training_step"
)
UNFINISHED = "unfinished.ckpt"


class SparsifyCallback(lightning.Callback):  # type: ignore[misc]
    """Trains under a recipe: `Trainer(…, callbacks=[SparsifyCallback("gmp", sparsity=0.9)])`.

    `recipe` is a Recipe, or its path or name, with values for its variables. `model` says what of the LightningModule
    is trained under it: a name, or a function of the module; by default its only child that has parameters, else the
    whole. `bindings` are the objects that the recipe declares (a teacher). `total_steps` and `steps_per_epoch` count
    optimizer steps, where manual optimization makes more or fewer than one a batch. `recipe.yaml` and `report.json` go
    to `directory`, by default the trainer's `log_dir`; where that is the working folder, since no other was named, to
    that of the checkpoints, if there are some. `best_below_target` lets checkpoints that are less sparse than the
    recipe asks for be the best, and early stopping count before. `checkpoint` is where the run resumes from, which only
    data that choose layers need to know. `evaluate(model)` returns metrics; gates are measured with it before and after
    they become binary. `allow_changed_recipe` resumes from a checkpoint of another recipe or another length.

    After the training, `density` is what was counted in the tensors. Errors are those of the manager: PlanError before
    the first step, StateError where a checkpoint does not belong here, SparsityError at the end if the model falls
    short; TrainingError if another process trains in `directory`.
    """

    def __init__(
        self,
        recipe: Recipe | str | Path,
        *,
        model: Which = None,
        bindings: Mapping[str, Any] | None = None,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        directory: str | Path | None = None,
        best_below_target: bool = False,
        checkpoint: str | Path | None = None,
        evaluate: Callable[[Any], Mapping[str, float]] | None = None,
        allow_changed_recipe: bool = False,
        **variables: Any,
    ) -> None:
        self.recipe = recipe.resolve(**variables) if isinstance(recipe, Recipe) else Recipe.load(recipe, **variables)
        self.which = model
        self.bindings = dict(bindings or {})
        self.length = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
        self.directory = directory
        self.best_below_target = best_below_target
        self.checkpoint = checkpoint
        self.evaluate = evaluate
        self.allow_changed_recipe = allow_changed_recipe
        self.manager = Manager(self.recipe)
        self.density: Density | None = None
        self._used = False
        self._trainer: Any = None
        """The trainer, from the beginning of a training to its end."""

        self._steps: Steps | None = None
        self._held = ExitStack()
        """What is given back when the training ends: locks, hooks."""

        self._shown = ExitStack()
        """The sparse copy, while an evaluation runs."""

        self._saved: dict[str, Any] | None = None
        """Our part of the checkpoint that the training resumes from."""

        self._kept: dict[str, Any] | None = None
        """Our part of a checkpoint that is written when the training is over."""

        self._reached: int | None = None
        """The trainer's step at which the last update had been made: from there on checkpoints are eligible."""

        self._measured = True
        """Whether an evaluation has begun since then: metrics of before are still in the trainer."""

        self._unfinished = False
        """Whether the checkpoint that is being written is that of a training that ended too early."""

        self._hooked = False
        """Whether the loss of this batch has its terms from the hook on the model."""

    @property
    def state_key(self) -> str:
        """The name of our part in Lightning's checkpoints."""
        return type(self).__name__ if self.which is None else f"{type(self).__name__}({self.which!r})"

    # ------------------------------------------------------------------ before training

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Change the structure, if the recipe does, whatever the checkpoint is loaded for; come first."""
        self._break_off()
        self._saved = None
        trainer.callbacks = [self, *(each for each in trainer.callbacks if each is not self)]  # a new list: it is read
        if stage == "fit":
            others.refuse(trainer)
            self._kept = None
            if self._used:
                self._used, self.manager = False, self.manager.again()
        if self.manager.restructures:
            pl_module.configure_model()  # what is made there is not there yet; it may be called twice
            manager = self.manager.again() if self._used else self.manager
            manager.attach(trained(pl_module, self.which), state=self._decided(), **self.bindings)
            if stage == "fit":
                others.copy_again(trainer, pl_module)

    def _decided(self) -> Any:
        """Return the manager's state in the checkpoint that was named, which says which layers were chosen."""
        if self.checkpoint is None:
            return None
        from sparsify import checkpoint

        callbacks = checkpoint.load(self.checkpoint).get("callbacks")
        found = callbacks.get(self.state_key) if isinstance(callbacks, dict) else None
        if not isinstance(found, dict) or "manager" not in found:
            raise StateError(f"{self.checkpoint} has no state of sparsify: it was made without a recipe")
        return found["manager"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep our part of a checkpoint until the training begins."""
        self._saved = state_dict

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Plan and attach; go on from our state in the checkpoint that the trainer has resumed from."""
        self._break_off()
        if self._used:  # a loop within a fit that has none of setup's events
            self.manager = self.manager.again()
        saved, self._saved, self._used = self._saved, None, True
        if saved is None and trainer.ckpt_path is not None:
            raise StateError(f"{trainer.ckpt_path} has no state of sparsify: it was made without a recipe")
        if saved is not None and not isinstance(saved.get("manager"), dict):
            raise StateError(f"{trainer.ckpt_path} is no checkpoint that sparsify wrote: manager is missing or wrong")
        self._reached, self._measured, self.density = None, True, None
        directory = self._directory(trainer)
        if directory is not None and trainer.is_global_zero and not trainer.fast_dev_run:
            held = lock.FolderLock(directory, "give SparsifyCallback another directory")
            self._held.callback(held.release)
        model = trained(pl_module, self.which)
        optimizers = optimizers_of(trainer, model.parameters)
        found = length(trainer, resumed=saved is not None)
        steps = Steps(self.manager, optimizers, trainer, manual=not pl_module.automatic_optimization)
        self._held.callback(steps.end)
        self.manager.apply(
            model,
            optimizers,
            **{name: value or found[name] for name, value in self.length.items()},
            scaler=getattr(trainer.precision_plugin, "scaler", None),
            evaluate=self.evaluate,
            **self.bindings,
        )
        self._held.callback(self.manager.detach)
        if saved is not None:
            self.manager.load_state_dict(saved["manager"], allow_changed_recipe=self.allow_changed_recipe)
            same = saved["manager"].get("sha256") == self.manager.plan.recipe.sha256
            if same and self.manager.step >= self.manager.last_update:
                self._reached, self._measured = saved.get("reached"), bool(saved.get("measured", True))
        steps.attach()
        if self.manager.loss_modifiers and self.manager.model is not pl_module:
            self._held.callback(loss_hook.attach(self.manager.model, self._from_outputs).remove)
        self._trainer, self._steps = trainer, steps
        self._note_reached(trainer)
        if saved is not None:
            randomness.restore(saved.get("random"))

    def _directory(self, trainer: Any) -> Path | None:
        """Return where reports go, the same in every process; None where the trainer was told of no place.

        Lightning's own place is then the working folder, which is for what the user keeps there.
        """
        if self.directory is not None:
            return Path(self.directory)
        place = Path(trainer.log_dir or trainer.default_root_dir)
        if place.resolve() != Path.cwd():
            return place
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        return None if folder is None else Path(folder)

    # ------------------------------------------------------------------ the step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin the transaction, with the first micro-batch of a step."""
        self._hooked = False
        if self._steps is not None:
            self._steps.begin(batch)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Refuse gradients that come too late."""
        if self._steps is not None:
            self._steps.after_backward()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Mask the gradients, which are unscaled and not clipped."""
        if self._steps is not None:
            self._steps.before(optimizer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End a step that was skipped; log."""
        if self._steps is None:
            return
        if self._steps.ready:
            self._steps.over()
        self._note_reached(trainer)
        if trainer._logger_connector.should_update_logs:
            pl_module.log_dict(metrics(self.manager), on_step=True, on_epoch=False)

    def on_loss(self, loss: Tensor, outputs: Any = None, inputs: Any = None) -> Tensor:
        """Return a loss with the terms of the recipe; outside of a training step, as it is."""
        if not self._teaches:
            return loss
        if self._hooked:
            raise HookError(_TWICE)
        return self.manager.on_loss(loss, outputs, inputs)

    def _from_outputs(self, loss: Tensor, outputs: Any) -> Tensor:
        changed = self.manager.on_loss(loss, outputs) if self._teaches else loss
        self._hooked = self._hooked or changed is not loss
        return changed

    @property
    def _teaches(self) -> bool:
        return self._trainer is not None and self._trainer.training and bool(self.manager.loss_modifiers)

    # ------------------------------------------------------------------ evaluation, and what is the best

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Show the sparse model, and put averages under its masks, before they are swapped in."""
        if self._trainer is None or self._steps is None:
            return
        self._steps.pause()
        if self._reached is not None and not self._measured and not self.best_below_target:
            others.forget_best(trainer)  # what was saved since then was ranked by metrics of before
        self._measured = True
        others.project(trainer, self.manager, self._trained)
        self._shown.enter_context(self.manager.sparse_copy())

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Go back to the weights that are trained; early stopping waits for the target."""
        self._shown.close()
        self._wait(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Early stopping waits for the target; averages are put under the masks before they become the model."""
        self._wait(trainer)
        if self._trainer is not None:
            others.project(trainer, self.manager, self._trained)

    def _wait(self, trainer: Any) -> None:
        if self._trainer is not None and self._reached is None and not self.best_below_target:
            others.wait(trainer)

    def _note_reached(self, trainer: Any) -> None:
        if self._reached is None and self.manager.step >= self.manager.last_update:
            self._reached, self._measured = trainer.global_step, False
            if not self.best_below_target:
                others.forget_best(trainer)
                others.wait(trainer)

    def _trained(self, module: Any) -> nn.Module:
        return trained(module, self.which)

    def state_dict(self) -> dict[str, Any]:
        """Return our part of a checkpoint; none outside of a training."""
        if self._trainer is None:
            return self._kept or {}
        state: dict[str, Any] = {
            "manager": self.manager.state_dict(),
            "reached": self._reached,
            "measured": self._measured,
        }
        state["random"] = randomness.random_states()
        others.project(self._trainer, self.manager, self._trained)  # the average is saved after this
        return state

    # ------------------------------------------------------------------ after training

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Finalize, before averages become the model."""
        if self._trainer is None:
            return
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if self.manager.step < self.manager.last_update and folder is not None and not trainer.fast_dev_run:
            self._unfinished = True
            trainer.save_checkpoint(Path(folder) / UNFINISHED)
        directory = self._directory(trainer) if not trainer.fast_dev_run else None
        others.project(trainer, self.manager, self._trained)
        self.density = self.manager.finalize(
            directory if trainer.is_global_zero else None, partial=bool(trainer.fast_dev_run)
        )
        self._kept = self.state_dict()
        self._break_off()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Have a training that ended within an epoch go on there, not with the next epoch."""
        if self._unfinished:
            others.within_epoch(checkpoint)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave a sparse model; keep our part of the checkpoint that Lightning may write now."""
        self._shown.close()
        if self._trainer is not None and others.saves_on_exception(trainer):
            self._kept = self.state_dict()
        self._break_off()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give back what is left."""
        self._break_off()

    def _break_off(self) -> None:
        """Give back what the training had: the model under its masks, hooks, clipping, the folder. Again: nothing."""
        self._trainer = self._steps = None
        self._unfinished = False
        self._shown.close()
        self._held.close()


def on_loss(module: Any, loss: Tensor, outputs: Any = None, inputs: Any = None) -> Tensor:
    """Return the loss of a `training_step` with the terms of the recipe: `return on_loss(self, loss, outputs)`.

    For a module whose loss is not its model's `outputs.loss`, under a recipe that distils. `inputs` are what the model
    was called with; what it was called with last by default. Without a SparsifyCallback, and outside of a training
    step, the loss is returned as it is.
    """
    trainer = getattr(module, "_trainer", None)
    for each in getattr(trainer, "callbacks", ()):
        if isinstance(each, SparsifyCallback):
            loss = each.on_loss(loss, outputs, inputs)
    return loss
