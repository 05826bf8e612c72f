"""Pipelines of transformers over a sparse model: a folder or a packed file in, answers out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparsify import pretrained
from sparsify.engine import saved
from sparsify.engine.whole import accelerate
from sparsify.errors import PlanError, did_you_mean, first_line
from sparsify.files import read_json
from sparsify.storage.packed import PackedFile
from sparsify.storage.unpacking import temporary

if TYPE_CHECKING:
    from torch import nn

TEXT = ("text-classification", "token-classification", "fill-mask", "text-generation", "feature-extraction")
"""Tasks whose inputs are texts, by transformers' names; the first that fits a model is the one that is meant."""

ROWS, TOKENS = 4, 64
"""The batch on which layers are tried, where no choices were saved with the model."""


def pipeline(task: str | None, path: str | Path, *, engine: str = "sparse", **options: Any) -> Any:
    """Return transformers' pipeline for the model in a folder, or in a packed file.

    `task` is one of `TEXT`, or None for the one that the model is made for. With `engine="sparse"` the model is made
    float32, and its linear layers run on the sparse engine by the choices that were saved with it (`save_choices`),
    else where a trial on a batch of 4 × 64 tokens says that it is faster; with `"torch"` the model is as it was saved.
    `options` go to transformers' `pipeline`. Raises PlanError for a folder without a model or tokenizer and for a model
    that does not fit the task, StateError for damaged files, KernelError where the engine does not work.

        classify = engine.pipeline("text-classification", "runs/sparse")
        classify(["a gripping film", "two hours of nothing"])
    """
    import transformers

    with opened(path) as folder:
        model = pretrained.from_folder(folder)
        named = fitting(model, task, path)
        if engine == "sparse":
            choices = read_json(folder / saved.FILE) if (folder / saved.FILE).exists() else None
            accelerate(model.float(), sample=None if choices else _sample(model), choices=choices)
        tokenizer = pretrained.tokenizer(folder)
        try:
            return transformers.pipeline(named, model=model, tokenizer=tokenizer, **options)
        except Exception as error:
            raise PlanError(f"{path}: {first_line(error)}") from None


def fitting(model: nn.Module, task: str | None, path: str | Path) -> str:
    """Return the task that a model is run for. Raises PlanError where the one that was asked for is none of its own."""
    mine = tuple(name for name in TEXT if _suits(model, name))
    kind = type(model).__name__
    if task is None and mine:
        return mine[0]
    if task is not None and task in mine:
        return task
    if task is not None and task not in TEXT:
        raise PlanError(f"there is no task {task!r} here{did_you_mean(task, TEXT)}; there are {', '.join(TEXT)}")
    rest = f"it does {' and '.join(mine)}" if mine else "its inputs are not texts alone, or its task has no pipeline"
    raise PlanError(f"{path} holds a {kind}: {rest}")


def _suits(model: nn.Module, task: str) -> bool:
    import transformers

    makers = {
        "text-classification": transformers.AutoModelForSequenceClassification,
        "token-classification": transformers.AutoModelForTokenClassification,
        "fill-mask": transformers.AutoModelForMaskedLM,
        "text-generation": transformers.AutoModelForCausalLM,
    }
    config: Any = model.config
    if task == "feature-extraction":
        return not any(_suits(model, other) for other in makers) and _made_by(transformers.AutoModel, config, model)
    return _made_by(makers[task], config, model)


def _made_by(maker: Any, config: Any, model: nn.Module) -> bool:
    """Whether an auto class makes models of this class from such a configuration."""
    try:
        kinds = maker._model_mapping[type(config)]
    except KeyError:
        return False
    return any(isinstance(model, kind) for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))


def _sample(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a batch of made-up tokens."""
    config: Any = model.config
    shape = ROWS, min(TOKENS, pretrained.positions(config) or TOKENS)
    ids = torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@contextmanager
def opened(path: str | Path) -> Iterator[Path]:
    """Yield the folder of a model, unpacked for as long as it is read where a packed file is given."""
    if not Path(path).is_file():
        yield Path(path)
        return
    packed = PackedFile(path)
    if "config.json" not in packed.beside():
        raise PlanError(f"{path} holds tensors and no config.json: pack a folder of transformers to get a model")
    with temporary(packed) as folder:
        yield folder
