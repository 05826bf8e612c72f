"""Pipelines of transformers over a sparse model: a folder or a packed file in, answers out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsify import pretrained
from sparsify.errors import PlanError, did_you_mean, first_line
from sparsify.storage.packed import PackedFile
from sparsify.storage.unpacking import write_all

if TYPE_CHECKING:
    from torch import nn

TEXT = ("text-classification", "token-classification", "fill-mask", "text-generation", "feature-extraction")
"""Tasks whose inputs are texts, by transformers' names; the first that fits a model is the one that is meant."""


def pipeline(task: str | None, path: str | Path, *, engine: str = "sparse", **options: Any) -> Any:
    """Return transformers' pipeline for the model in a folder, or in a packed file.

    `task` is one of `TEXT`, or None for the one that the model is made for. With `engine="sparse"` the linear layers
    run on the sparse engine where a trial says that it is faster, with `"torch"` as they are. `options` go to
    transformers' `pipeline`. Raises PlanError for a folder without a model or tokenizer and for a model that does not
    fit the task, StateError for damaged files.

        classify = engine.pipeline("text-classification", "runs/sparse")
        classify(["a gripping film", "two hours of nothing"])
    """
    import transformers

    with opened(path) as folder:
        model = pretrained.from_folder(folder)
        named = fitting(model, task, path)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        except Exception as error:  # the library raises of every kind
            raise PlanError(f"{path}: no tokenizer can be read: {first_line(error)}") from None
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


@contextmanager
def opened(path: str | Path) -> Iterator[Path]:
    """Yield the folder of a model, unpacked for as long as it is read where a packed file is given."""
    if not Path(path).is_file():
        yield Path(path)
        return
    packed = PackedFile(path)
    if "config.json" not in packed.beside():
        raise PlanError(f"{path} holds tensors and no config.json: pack a folder of transformers to get a model")
    with tempfile.TemporaryDirectory(prefix="sparsify-") as folder:
        write_all(packed, Path(folder))
        yield Path(folder)
