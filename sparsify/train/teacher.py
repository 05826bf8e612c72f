"""The teacher of `--teacher`: a trained model with the same head, which reads the same inputs."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparsify.errors import PlanError
from sparsify.recipe import Recipe
from sparsify.train.calibration import names_of_bindings
from sparsify.train.labels import Labels
from sparsify.train.model import config_for, load

CACHE = "teacher_cache"
"""The binding of `--teacher-cache`."""


def name_of_binding(recipe: Recipe | None, teacher: str | None) -> str | None:
    """Return the binding that `--teacher` is for; None where there is none. Raises PlanError where one is missing."""
    if recipe is None:
        if teacher is not None:
            raise PlanError("--teacher is for a --recipe that distils")
        return None
    distilling = [each.bindings() for _, each in recipe.keyed() if each.changes_loss()]
    teachers = sorted({name for each in distilling for name, needed in each.items() if needed.required})
    if teacher is not None and len(teachers) != 1:
        what = f"has several teachers: {', '.join(teachers)}" if teachers else "distils from none"
        raise PlanError(f"--teacher {teacher}: the recipe {what}")
    if teacher is None and teachers:
        raise PlanError(f"the recipe distils: give its {teachers[0]} as --teacher NAME_OR_DIR")
    known = {*teachers, *names_of_bindings(recipe)}
    others = [name for name, each in recipe.needs().items() if each.required and name not in known]
    if others:
        raise PlanError(f"the recipe needs {others[0]!r}, for which sparsify train has no flag: train in your own loop")
    return teachers[0] if teachers else None


def check_cache(recipe: Recipe | None, folder: str | None) -> None:
    """Raise PlanError for a `--teacher-cache` that nothing is kept in."""
    if folder is not None and (recipe is None or CACHE not in recipe.needs()):
        raise PlanError("--teacher-cache is for a --recipe that distils with a `cache`")


def load_teacher(name: str, task: str, labels: Labels | None, processor: Any) -> nn.Module:
    """Return the teacher, with its trained head. Raises PlanError for one that says or reads something else."""
    config = config_for(name, task)
    known = tuple(str(config.id2label[index]) for index in sorted(config.id2label))
    if labels is not None and known != labels.names:
        wanted = _listed(labels.names)
        raise PlanError(f"--teacher {name}: its labels are {_listed(known)}; those of the data are {wanted}")
    model, notes = load(name, task, config, labels)
    if notes:
        raise PlanError(f"--teacher {name}: {notes[0]}: fine-tune it on the task first")
    _check_reader(name, processor)
    return model


def _check_reader(name: str, processor: Any) -> None:
    """Raise PlanError for a teacher with another tokenizer: its inputs are the student's."""
    vocabulary = getattr(processor, "get_vocab", None)
    if vocabulary is None:
        return
    from transformers import AutoTokenizer

    try:
        own = AutoTokenizer.from_pretrained(name, trust_remote_code=False).get_vocab()
    except Exception:  # a folder without one: the model has been checked by its size
        return
    if own != vocabulary():
        raise PlanError(f"--teacher {name}: its tokenizer differs from the model's: both must read the same tokens")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
