"""Lightning's other callbacks: which checkpoint is the best one, when to stop early, averages of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from sparsify import Manager, PlanError
from sparsify.integrations.lightning.package import lightning

SHARDED = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy", "XLAFSDPStrategy")


def refuse(trainer: Any) -> None:
    """Raise PlanError for strategies and callbacks that cannot be served."""
    names = {kind.__name__ for kind in type(trainer.strategy).__mro__}
    if found := names & set(SHARDED):
        raise PlanError(f"{min(found)} shards the parameters, which sparsify does not support yet: use DDP")
    if _of(trainer, "StochasticWeightAveraging"):
        raise PlanError(
            "StochasticWeightAveraging trains another epoch without optimizer steps, after the recipe has ended: use "
            "WeightAveraging or EMAWeightAveraging, whose averages end under the masks"
        )


def _of(trainer: Any, name: str) -> list[Any]:
    """Return the trainer's callbacks of a class of Lightning's, which not every version has."""
    kind = getattr(lightning.callbacks, name, None)
    return [] if kind is None else [each for each in trainer.callbacks if isinstance(each, kind)]


def saves_on_exception(trainer: Any) -> bool:
    """Whether a checkpoint is written when an exception has ended the training."""
    found = any(getattr(each, "save_on_exception", False) for each in _of(trainer, "ModelCheckpoint"))
    return found or bool(_of(trainer, "OnExceptionCheckpoint"))


def within_epoch(checkpoint: dict[str, Any]) -> None:
    """Let a checkpoint that is written after an epoch was broken off say that it is still under way."""
    loop = checkpoint["loops"]["fit_loop"]
    batches = loop.get("epoch_loop.batch_progress", {})
    if batches.get("is_last_batch", True):
        return
    for counted in loop["epoch_progress"].values():
        counted["processed"] = counted["completed"] = max(counted["started"] - 1, 0)


# ---------------------------------------------------------------------- the best one


def forget_best(trainer: Any) -> None:
    """Let the next checkpoint be the best one: those before it are less sparse than the recipe asks for.

    They stay where they are; Lightning does not delete them any more.
    """
    for each in _of(trainer, "ModelCheckpoint"):
        if each.monitor is None:
            continue
        each.best_k_models, each.kth_best_model_path, each.best_model_path = {}, "", ""
        each.best_model_score = each.current_score = None
        each.kth_value = torch.tensor(math.inf if each.mode == "min" else -math.inf)


def wait(trainer: Any) -> None:
    """Let early stopping begin to count with the next evaluation."""
    for each in _of(trainer, "EarlyStopping"):
        each.wait_count = 0
        each.best_score = torch.tensor(math.inf if each.monitor_op == torch.lt else -math.inf)


# ---------------------------------------------------------------------- averages of weights


def _averages(trainer: Any) -> Iterator[tuple[Any, nn.Module]]:
    """Yield each averaging callback and its average, which has the names of the LightningModule."""
    for each in _of(trainer, "WeightAveraging"):
        if (average := getattr(each, "_average_model", None)) is not None:
            yield each, average.module


def copy_again(trainer: Any, module: Any) -> None:
    """Have averages begin from the model as it is now: layers were dropped after they had copied it."""
    for each, _ in _averages(trainer):
        each.setup(trainer, module, "fit")


def project(trainer: Any, manager: Manager, trained: Callable[[Any], nn.Module]) -> None:
    """Put averages under the masks in force: an average of weights under changing masks is almost dense."""
    for _, average in _averages(trainer):
        manager.project(trained(average))
