"""A run from beginning to end: model and data, the stock Trainer, a folder that `from_pretrained` loads without us."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from sparsify import ranks
from sparsify.checkpoint import about_files
from sparsify.errors import SparsifyError, StateError, TrainingError, did_you_mean, first_line
from sparsify.integrations.common.checkpoints import (
    check,
    checkpoints,
    is_marked,
    marker,
    new_run,
    refuse_others,
    step_of,
)
from sparsify.integrations.transformers import SparsifyCallback, last_whole
from sparsify.lock import only_run_in
from sparsify.modifiers.distill.items import divides_by_items
from sparsify.outcome import REPORT
from sparsify.plan import Plan
from sparsify.progress import task
from sparsify.recipe import Recipe
from sparsify.report.predictions import FILE as PREDICTIONS
from sparsify.train import folder, result, settings
from sparsify.train.calibration import calibration
from sparsify.train.display import Display, show
from sparsify.train.folder import CHECKPOINTS
from sparsify.train.keeper import OTHERS, Keeper
from sparsify.train.metrics import higher_is_better
from sparsify.train.model import freeze
from sparsify.train.predictions import Remembering
from sparsify.train.processes import LOST, is_lost, joined
from sparsify.train.settings import Record, Settings
from sparsify.train.task import Prepared
from sparsify.train.tasks import TASKS
from sparsify.train.teacher import CACHE, check_cache, load_teacher, name_of_binding

LOGS = 200
"""About how many points the curves have."""


def run(
    asked: Settings,
    recipe: Recipe | None,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    allow_changed_recipe: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train under `recipe` (dense without one) and write `directory`; return the report.

    The folder gets the model, what goes with it, `recipe.yaml`, `predictions.json` and `report.json`, which is written
    last; it is locked meanwhile. `allow_changed_recipe` lets a resumed run have another recipe, and another number of
    epochs, than it was begun with. Raises DataError and PlanError before anything is trained or written; StateError for
    a folder that cannot be written to, or whose run is another; TrainingError, for a folder in which another process
    trains, too; SparsityError if the model falls short; `keeper.Stopped` on Ctrl-C, with everything saved.
    """
    with ExitStack() as stack:
        asked = replace(asked, processes=stack.enter_context(joined()))

        def reserve() -> bool:
            """Lock the folder; return whether its file system can."""
            folder.check(directory, resume=resume, overwrite=overwrite)
            lock = stack.enter_context(only_run_in(directory, "choose another --out"))
            folder.check(directory, resume=resume, overwrite=overwrite)  # as it is now that nobody else writes
            folder.tidy(directory)
            return lock.held

        locked = ranks.from_first(reserve)
        console = console if console and ranks.is_first() else Console(quiet=True)
        if not locked:
            show(console, f"{directory}: this file system has no locks; do not start a second run there", style="dim")
        return _run(asked, recipe, directory, console, resume, allow_changed_recipe)


def _run(
    asked: Settings, recipe: Recipe | None, directory: Path, console: Console, resume: bool, allow_changed_recipe: bool
) -> dict[str, Any]:
    import transformers

    before = ranks.from_first(lambda: settings.read(directory)) if resume else None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    transformers.set_seed(asked.seed)
    prepared = ranks.first_then_others(lambda: TASKS[asked.task].prepare(asked))
    if frozen := freeze(prepared.model, asked.freeze):
        prepared.notes.append(f"{frozen:,} parameters are frozen")
    per_epoch = prepared.steps(asked)
    total = math.ceil(asked.epochs * per_epoch)
    binding = name_of_binding(recipe, asked.teacher)
    check_cache(recipe, asked.teacher_cache)
    bindings: dict[str, Any] = {CACHE: asked.teacher_cache} if asked.teacher_cache is not None else {}
    bindings |= ranks.first_then_others(lambda: calibration(recipe, asked, prepared.model))
    if binding is not None and asked.teacher is not None:
        teacher = asked.teacher
        bindings[binding] = ranks.first_then_others(
            lambda: load_teacher(teacher, asked.task, prepared.labels, prepared.processor)
        )
    plan = _plan(recipe, prepared.model, total, per_epoch) if recipe else None
    described = {"name": recipe.name, "sha256": plan.recipe.sha256} if recipe and plan else None
    name = before.run if before else ranks.from_first(new_run)
    record = Record(name, asked.to_dict(), described, prepared.data)
    arguments = _arguments(asked, prepared, directory, total)

    def enter() -> tuple[Path | None, bool]:
        """Make the folder ready; return the checkpoint to go on from, and whether the run goes on otherwise."""
        if before:
            return _resumed(directory, before, record, total, allow_changed_recipe)
        folder.clear(directory)
        settings.write(directory, record)
        return None, False

    checkpoint, changed = ranks.from_first(enter)
    if before:
        show(
            console,
            f"continuing from {checkpoint}"
            if checkpoint
            else "there is no checkpoint yet: starting from the beginning",
        )
    for note in [*prepared.notes, *(plan.notes if plan else ())]:
        show(console, note, style="dim")
    show(console, plan.headline() if plan else f"dense training, {total} steps")

    def begun() -> None:
        """Write down that the run goes on otherwise; what it was finished with before is so no longer."""
        if changed and ranks.is_first():
            settings.write(directory, record)
            for name in (REPORT, PREDICTIONS):
                (directory / name).unlink(missing_ok=True)

    sparsifier = (
        SparsifyCallback(
            recipe,
            bindings=bindings,
            run=record.run,
            checkpoint=checkpoint,
            allow_changed_recipe=allow_changed_recipe,
        )
        if recipe
        else None
    )
    return _train(asked, prepared, directory, arguments, console, sparsifier, Keeper(record.run, begun), checkpoint)


def _plan(recipe: Recipe, model: Any, total: int, per_epoch: int) -> Plan:
    return ranks.first_then_others(lambda: Plan.of(recipe, model, total_steps=total, steps_per_epoch=per_epoch))


def _resumed(
    directory: Path, before: Record, record: Record, total: int, allow_changed_recipe: bool
) -> tuple[Path | None, bool]:
    """Return the checkpoint to go on from, and whether the run goes on otherwise. Raises StateError if it cannot."""
    changed = bool(settings.changes(directory, before, record, allow_changed_recipe=allow_changed_recipe))
    checkpoint = _last(directory, record.run)
    if (directory / REPORT).exists() and not (changed and checkpoint):
        kept = "" if checkpoint else " (its checkpoints are gone, which --keep-checkpoints would have kept)"
        raise StateError(f"{directory}: the run is finished, there is nothing to resume{kept}")
    if checkpoint and step_of(checkpoint) > total:
        raise StateError(f"{checkpoint} is beyond the end of this training, step {total}: give more --epochs")
    return checkpoint, changed


def _train(
    asked: Settings,
    prepared: Prepared,
    directory: Path,
    arguments: Any,
    console: Console,
    sparsifier: SparsifyCallback | None,
    keeper: Keeper,
    checkpoint: Path | None,
) -> dict[str, Any]:
    import transformers

    def evaluate(model: Any) -> dict[str, float]:
        """Return the metrics of now, without an event: nothing is logged, and no checkpoint is picked by them."""
        found = trainer.evaluation_loop(trainer.get_eval_dataloader(), "", metric_key_prefix="now")
        return {name: found.metrics[f"now_{name}"] for name in ("loss", *names)}

    names = metric_names(asked, prepared)
    if sparsifier:
        sparsifier.evaluate = evaluate
    measure = Remembering(prepared.measure)
    display = Display(console, names, (lambda: sparsifier.manager.sparsity) if sparsifier else None)
    trainer = transformers.Trainer(
        model=prepared.model,
        args=arguments,
        train_dataset=prepared.train,
        eval_dataset=prepared.evaluation,
        data_collator=prepared.collate,
        processing_class=prepared.processor,
        compute_metrics=measure,
        preprocess_logits_for_metrics=prepared.thin,
        callbacks=[callback for callback in (sparsifier, keeper, display) if callback],
    )
    # A loss that ignores the count of labels would be summed over micro-batches and processes.
    trainer.model_accepts_loss_kwargs &= divides_by_items(prepared.model)
    trainer.remove_callback(transformers.PrinterCallback)
    try:
        with keeper.listening():
            trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except StateError as error:
        raise StateError(str(error).replace("allow_changed_recipe=True", "--allow-changed-recipe")) from None
    except SparsifyError:
        raise
    except Exception as error:
        if is_lost(error):
            raise TrainingError(f"{LOST}: {first_line(error)}{_last_good(directory)}") from None
        if not about_files(error):
            raise
        raise TrainingError(_unwritten(error, directory)) from None
    finally:
        display.stop()
    trainer.remove_callback(display)
    history = list(trainer.state.log_history)
    with task("evaluating"):
        metrics = trainer.evaluate()
    seconds = trained.metrics["train_runtime"]

    def write() -> dict[str, Any]:
        report = result.report(asked, prepared, trainer, seconds, metrics, history)
        predicted = prepared.predicted(measure.last) if prepared.predicted else None
        result.write(directory, trainer.model, prepared.processor, report, predicted, directory / CHECKPOINTS)
        if not asked.keep_checkpoints:
            shutil.rmtree(directory / CHECKPOINTS, ignore_errors=True)
        return report

    return ranks.from_first(write)


def _arguments(asked: Settings, prepared: Prepared, directory: Path, total: int) -> Any:
    """Return the Trainer's arguments.

    Everything happens at steps: an evaluation at an epoch's end would come after the checkpoint of that step, and a
    resumed run would leave it out, with the random numbers that it draws.
    """
    import torch
    from transformers import TrainingArguments

    _check_loggers(asked.log_to)
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    metric = metric_names(asked, prepared)[0]
    evaluate = min(asked.eval_every or prepared.steps(asked), total)
    return TrainingArguments(
        output_dir=str(directory / CHECKPOINTS),
        num_train_epochs=asked.epochs,
        per_device_train_batch_size=asked.batch_size,
        per_device_eval_batch_size=2 * asked.batch_size,
        gradient_accumulation_steps=asked.accumulate,
        learning_rate=asked.lr,
        lr_scheduler_type=asked.schedule,
        warmup_steps=round(asked.warmup * total),
        weight_decay=asked.weight_decay,
        max_grad_norm=asked.max_grad_norm,
        seed=asked.seed,
        bf16=asked.bf16,
        use_cpu=not accelerated,
        ddp_backend="gloo" if asked.processes > 1 and not accelerated else None,
        train_sampling_strategy="sequential",
        logging_strategy="steps",
        logging_steps=max(total // LOGS, 1),
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=evaluate,
        save_strategy="steps",
        save_steps=evaluate if asked.best else min(asked.save_every or prepared.steps(asked), total),
        load_best_model_at_end=asked.best,
        metric_for_best_model=metric if asked.best else None,
        greater_is_better=higher_is_better(metric) if asked.best else None,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to=list(asked.log_to) or "none",
    )


def metric_names(asked: Settings, prepared: Prepared) -> list[str]:
    """Return what an evaluation tells beside the loss, the metric that was asked for first. Raises TrainingError."""
    names = [*TASKS[asked.task].metrics, *prepared.more]
    if asked.metric is None:
        return names
    if asked.metric not in (*names, "loss"):
        raise TrainingError(
            f"--metric {asked.metric}: {asked.task} has no such metric{did_you_mean(asked.metric, names)}"
        )
    return [asked.metric, *(name for name in names if name != asked.metric)]


def _check_loggers(names: Sequence[str]) -> None:
    """Raise TrainingError for a logger that the Trainer does not know, or whose package is not installed."""
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        for kind in get_reporting_integration_callbacks(list(names)):
            kind()
    except (ValueError, RuntimeError, ImportError) as error:
        raise TrainingError(f"--log-to: {first_line(error)}") from None


def _last(directory: Path, run: str) -> Path | None:
    """Return the checkpoint to go on from. Raises StateError if it is damaged, or others lie there."""
    whole = [path for path in checkpoints(directory / CHECKPOINTS) if is_marked(path)]
    try:
        for path in whole:
            marker(path)
        if whole:
            check(whole[-1])
    except StateError as error:
        before = f"that before it ({whole[-2].name})" if len(whole) > 1 else "the beginning"
        raise StateError(f"{error}; remove that folder to go on from {before}") from None
    refuse_others(directory / CHECKPOINTS, run, OTHERS)
    return whole[-1] if whole else None


def _unwritten(error: Exception, directory: Path) -> str:
    reason = getattr(error, "strerror", None) or first_line(error)
    free = shutil.disk_usage(directory).free // 1_000_000 if directory.is_dir() else 0
    writable = "" if os.access(directory, os.W_OK) else "; the folder may not be written to"
    room = f"{free} MB free{writable}"
    where = _last_good(directory)
    return f"{directory}: a checkpoint cannot be written: {reason} ({room}){where}. Then go on with --resume"


def _last_good(directory: Path) -> str:
    last = last_whole(directory / CHECKPOINTS)
    return f"; the last good checkpoint is {last}" if last else "; there is no checkpoint yet"
