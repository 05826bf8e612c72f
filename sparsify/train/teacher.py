"""The teacher of `--teacher`: a trained model with the same head, which reads the same inputs."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparsify import pretrained
from sparsify.errors import PlanError
from sparsify.recipe import Recipe
from sparsify.train.calibration import names_of_bindings
from sparsify.train.labels import Labels
from sparsify.train.model import config_for, load

CACHE = "teacher_cache"
"""The binding of `--teacher-cache`."""
PROBE = "Is it TRUE that Zoë paid 3.14 € for naïve e-mails, isn't it? 東京 <mask>"
"""What tokenizers with one vocabulary may still read otherwise: capitals, accents, punctuation, special tokens."""


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
    check_reader(name, processor, getattr(config, "num_channels", 3))
    return model


def check_reader(name: str, processor: Any, channels: int) -> None:
    """Raise PlanError for a teacher with another tokenizer, or image processor: its inputs are the student's."""
    texts = hasattr(processor, "get_vocab")
    try:
        own: Any = (pretrained.tokenizer if texts else pretrained.image_processor)(name)
    except Exception:  # a folder without one: the model has been checked by its size
        return
    if texts and (own.get_vocab() != processor.get_vocab() or not _read_alike(own, processor)):
        raise PlanError(f"--teacher {name}: its tokenizer differs from the model's: both must read the same tokens")
    if not texts and not _alike(own, processor, channels):
        raise PlanError(
            f"--teacher {name}: its image processor makes other pixels of an image than the model's (size, mean, "
            "standard deviation, …): both must see the same"
        )


def _read_alike(one: Any, other: Any) -> bool:
    """Whether two tokenizers of one vocabulary make the same of a text."""
    words = sorted(one.get_vocab())
    some = " ".join(words[:: max(len(words) // 64, 1)])
    text = f"{PROBE} {some} {some.title()}"
    return bool(one(text)["input_ids"] == other(text)["input_ids"])


def _alike(one: Any, other: Any, channels: int) -> bool:
    """Whether two image processors make the same of an image."""
    import torch
    from PIL import Image

    size, mode = (48, 40), "L" if channels == 1 else "RGB"
    bands = [Image.linear_gradient("L").resize(size).rotate(90 * number) for number in range(len(mode))]
    image = Image.merge(mode, bands)
    first, second = (each(images=image, return_tensors="pt")["pixel_values"] for each in (one, other))
    return first.shape == second.shape and torch.allclose(first.float(), second.float(), atol=1e-3)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
