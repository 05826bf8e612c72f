"""What a run leaves behind: the model's folder, `recipe.yaml`, and `report.json` as its last word."""

from __future__ import annotations

import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sparsify._version import __version__
from sparsify.checkpoint import umask, write_text
from sparsify.compaction.saving import save_widths
from sparsify.density import measure
from sparsify.errors import StateError
from sparsify.outcome import FORMAT, RECIPE, REPORT
from sparsify.report.predictions import FILE as PREDICTIONS
from sparsify.report.predictions import Predictions
from sparsify.train.settings import Settings
from sparsify.train.task import Prepared

LIBRARIES = ("torch", "transformers", "datasets", "accelerate")
STAGING = ".final"


def report(
    asked: Settings,
    prepared: Prepared,
    trainer: Any,
    seconds: float,
    metrics: dict[str, float],
    history: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return the report: what the manager wrote into the Trainer's folder, the settings, the metrics, the curves."""
    made = Path(trainer.args.output_dir)
    if (made / REPORT).is_file():
        found = json.loads((made / REPORT).read_text())
    else:
        found = {"format": FORMAT, "sparsify": __version__, "torch": torch.__version__, "recipe": None}
        found["density"] = measure(trainer.model).to_dict()
    picked = trainer.state.best_global_step if asked.best else None
    return {
        **found,
        "training": {
            "settings": asked.to_dict(),
            "data": prepared.data,
            "versions": {name: version(name) for name in LIBRARIES},
            "steps": trainer.state.global_step,
            "picked_step": picked,
            "seconds": seconds,
            "metrics": {
                name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")
            },
        },
        "history": [entry for entry in history if "train_runtime" not in entry],
    }


def write(
    directory: Path, model: Any, processor: Any, found: dict[str, Any], predicted: Predictions | None, made: Path
) -> None:
    """Write the folder: everything beside its place, then renamed into it, the report last. Raises StateError.

    `made` is the Trainer's folder, with what the manager wrote.
    """
    staging = directory / STAGING
    try:
        shutil.rmtree(staging, ignore_errors=True)
        model.save_pretrained(staging)
        save_widths(model, staging)
        processor.save_pretrained(staging)
        if (made / RECIPE).is_file():
            shutil.copy(made / RECIPE, staging / RECIPE)
        if predicted is not None:
            (staging / PREDICTIONS).write_text(predicted.model_dump_json() + "\n")
        for path in sorted(staging.iterdir()):
            path.chmod(0o666 & ~umask())  # safetensors gives files to their owner alone
            os.replace(path, directory / path.name)
        staging.rmdir()
    except Exception as error:
        if not isinstance(error, OSError) and "Safetensor" not in type(error).__name__:
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise StateError(
            f"{directory}: the model cannot be written: {reason}; make room, then go on with --resume"
        ) from None
    write_text(directory / REPORT, json.dumps(found, indent=2) + "\n")
