"""Pipelines of transformers over a sparse model: a folder or a packed file in, answers out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparsify import pretrained
from sparsify.engine import saved
from sparsify.engine.direct import loaded
from sparsify.engine.layer import Sparse
from sparsify.engine.questions import QuestionAnswering
from sparsify.engine.whole import accelerate
from sparsify.errors import PlanError, did_you_mean, first_line
from sparsify.files import read_json
from sparsify.heads import PIPELINES
from sparsify.storage.models import unpacked, with_model
from sparsify.storage.unpacking import temporary, write_beside

if TYPE_CHECKING:
    from torch import nn

ENGINES = ("sparse", "torch")
OF_IMAGES = ("image-classification",)

ROWS, TOKENS = 4, 64
"""The batch on which layers are tried, where no choices were saved with the model."""

SIDE = 224
"""Of images, where the configuration does not say."""


def pipeline(task: str | None, path: str | Path, *, engine: str = "sparse", **options: Any) -> Any:
    """Return transformers' pipeline for the model in a folder, or in a packed file; ours for question answering.

    `task` is one of `heads.PIPELINES`, or None for the one that the model is made for. With `engine="sparse"` the model
    is made float32, and its linear layers and convolutions run on the sparse engine by the choices that were saved with
    it (`save_choices`), else where a trial on a batch of 4 × 64 tokens, or 4 images, says that it is faster; with
    `"torch"` the model is as it was saved. `options` go to transformers' `pipeline`, or to `QuestionAnswering`. Raises
    PlanError for a folder without a model, tokenizer or image processor, for a model that does not fit the task and for
    another engine, StateError for damaged files and for packed ones without a model, KernelError where the engine does
    not work.

        classify = engine.pipeline("text-classification", "runs/sparse")
        classify(["a gripping film", "two hours of nothing"])
    """
    import transformers

    if engine not in ENGINES:
        raise PlanError(
            f"there is no engine {engine!r} here{did_you_mean(engine, ENGINES)}; there are sparse and torch"
        )
    with _opened(Path(path), engine) as (folder, model):
        named = fitting(model, task, path)
        if engine == "sparse" and not any(isinstance(module, Sparse) for module in model.modules()):
            choices = read_json(folder / saved.FILE) if (folder / saved.FILE).exists() else None
            accelerate(model.float(), sample=None if choices else _sample(model), choices=choices, keep_dense=False)
        if named in OF_IMAGES:
            options = {"image_processor": pretrained.image_processor(folder), **options}
        else:
            options = {"tokenizer": pretrained.tokenizer(folder), **options}
        try:
            if named == QuestionAnswering.task:
                return QuestionAnswering(model, **options)
            return transformers.pipeline(named, model=model, **options)
        except Exception as error:
            raise PlanError(f"{path}: {first_line(error)}") from None


@contextmanager
def _opened(path: Path, engine: str) -> Iterator[tuple[Path, nn.Module]]:
    """Yield a folder of transformers and its model: sparse already where a packed file says which layers are."""
    if path.is_file() and engine == "sparse":
        packed = with_model(path)
        if (choices := saved.choices_in(packed)) is not None:
            with temporary(packed, write_beside) as folder:
                model = loaded(packed, folder, choices)
                if model is not None:
                    yield folder, model
                    return
    folders: AbstractContextManager[Path] = unpacked(path) if path.is_file() else nullcontext(path)
    with folders as folder:
        yield folder, pretrained.from_folder(folder)


def fitting(model: nn.Module, task: str | None, path: str | Path) -> str:
    """Return the task that a model is run for. Raises PlanError where the one that was asked for is none of its own."""
    mine = tuple(name for name in PIPELINES if _suits(model, name))
    kind = type(model).__name__
    if task is None and mine:
        return mine[0]
    if task is not None and task in mine:
        return task
    if task is not None and task not in PIPELINES:
        raise PlanError(
            f"there is no task {task!r} here{did_you_mean(task, PIPELINES)}; there are {', '.join(PIPELINES)}"
        )
    rest = f"it does {' and '.join(mine)}" if mine else "its inputs are not texts alone, or its task has no pipeline"
    raise PlanError(f"{path} holds a {kind}: {rest}")


def _suits(model: nn.Module, task: str) -> bool:
    import transformers

    def made_by(name: str) -> bool:
        return _made_by(getattr(transformers, PIPELINES[name]), model)

    heads = [name for name in PIPELINES if name != "feature-extraction"]
    return made_by(task) and (task in heads or not any(made_by(name) for name in heads))


def _made_by(maker: Any, model: nn.Module) -> bool:
    """Whether an auto class makes models of this class from such a configuration."""
    try:
        kinds = maker._model_mapping[type(model.config)]
    except KeyError:
        return False
    return any(isinstance(model, kind) for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))


def _sample(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a batch of made-up tokens, or images."""
    config: Any = model.config
    if getattr(model, "main_input_name", "") == "pixel_values":
        side = getattr(config, "image_size", None) or SIDE
        sides = tuple(side) if isinstance(side, (list, tuple)) else (side, side)
        return {"pixel_values": torch.zeros(ROWS, getattr(config, "num_channels", 3), *sides).uniform_(-1, 1)}
    shape = ROWS, min(TOKENS, pretrained.positions(config) or TOKENS)
    ids = torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
