"""Pipelines of transformers over a sparse model: a folder or a packed file in, answers out."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparsify import pretrained
from sparsify.engine import saved
from sparsify.engine.whole import accelerate
from sparsify.errors import PlanError, did_you_mean, first_line
from sparsify.files import read_json
from sparsify.heads import PIPELINES
from sparsify.storage.models import unpacked

if TYPE_CHECKING:
    from torch import nn

ENGINES = ("sparse", "torch")

ROWS, TOKENS = 4, 64
"""The batch on which layers are tried, where no choices were saved with the model."""


def pipeline(task: str | None, path: str | Path, *, engine: str = "sparse", **options: Any) -> Any:
    """Return transformers' pipeline for the model in a folder, or in a packed file.

    `task` is one of `heads.PIPELINES`, or None for the one that the model is made for. With `engine="sparse"` the model
    is made float32, and its linear layers run on the sparse engine by the choices that were saved with it
    (`save_choices`), else where a trial on a batch of 4 × 64 tokens says that it is faster; with `"torch"` the model is
    as it was saved. `options` go to transformers' `pipeline`. Raises PlanError for a folder without a model or
    tokenizer, for a model that does not fit the task and for another engine, StateError for damaged files and for
    packed ones without a model, KernelError where the engine does not work.

        classify = engine.pipeline("text-classification", "runs/sparse")
        classify(["a gripping film", "two hours of nothing"])
    """
    import transformers

    if engine not in ENGINES:
        raise PlanError(
            f"there is no engine {engine!r} here{did_you_mean(engine, ENGINES)}; there are sparse and torch"
        )
    folders: AbstractContextManager[Path] = unpacked(path) if Path(path).is_file() else nullcontext(Path(path))
    with folders as folder:
        model = pretrained.from_folder(folder)
        named = fitting(model, task, path)
        if engine == "sparse":
            choices = read_json(folder / saved.FILE) if (folder / saved.FILE).exists() else None
            accelerate(model.float(), sample=None if choices else _sample(model), choices=choices, keep_dense=False)
        tokenizer = pretrained.tokenizer(folder)
        try:
            return transformers.pipeline(named, model=model, tokenizer=tokenizer, **options)
        except Exception as error:
            raise PlanError(f"{path}: {first_line(error)}") from None


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
    """Return a batch of made-up tokens."""
    config: Any = model.config
    shape = ROWS, min(TOKENS, pretrained.positions(config) or TOKENS)
    ids = torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
