"""A folder with a sparse model → a folder with the smaller one; what lies beside the weights goes along."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from sparsify import widths
from sparsify.checkpoint import claim, replace_folder
from sparsify.compaction.saving import check_place, save
from sparsify.compaction.smaller import TOLERANCE, Compacted, compacted
from sparsify.errors import StateError
from sparsify.pretrained import from_folder
from sparsify.progress import task

WEIGHTS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".onnx",
    ".data",
    ".packed",
    ".index.json",
)
LEFT = ("config.json", "trainer_state.json", "training_args.json", "run.json", "README.md", widths.FILE)
"""Files that are of the model before: its configuration is written anew, its training cannot go on."""


def compact_folder(
    directory: str | Path,
    out: str | Path,
    *,
    equal: bool = False,
    align: int = 1,
    at_least: int = 0,
    tolerance: float = TOLERANCE,
    inputs: Any = None,
) -> Compacted:
    """Write the smaller model of a folder to another one, with tokenizer, recipe and report; see `compacted`.

    Raises PlanError for a folder without a model, CompactionError for one that cannot be made smaller, StateError where
    `out` cannot be written, or is no place for it.
    """
    directory, out = Path(directory), Path(out)
    claimed = check_places(directory, out)
    with task("loading"):
        model = from_folder(directory, dtype="auto")
    found = compacted(
        model,
        example_inputs=inputs,
        equal=equal,
        align=align,
        at_least=at_least,
        tolerance=tolerance,
    )
    write_beside(found.model, directory, out, claimed)
    return found


def check_places(directory: Path, out: Path) -> Callable[[], None]:
    """Return the claim on `out`. Raises StateError where it is no place for what is made of `directory`'s model."""
    if out.exists() and directory.resolve() == out.resolve():
        raise StateError(f"{out} is the folder that is read: write to another one")
    check_place(out)
    return claim(out)


def write_beside(model: nn.Module, directory: Path, out: Path, claimed: Callable[[], None]) -> None:
    """Write what was made of the model in `directory` to `out`, with the files that go along. Raises StateError."""

    def fill(made: Path) -> None:
        save(model, made)
        for path in sorted(directory.iterdir()):
            if path.is_file() and not path.name.startswith(".") and _goes_along(path.name):
                shutil.copyfile(path, made / path.name)
        claimed()

    with task("writing"):
        replace_folder(out, fill)


def _goes_along(name: str) -> bool:
    return name not in LEFT and not name.endswith(WEIGHTS) and name != "generation_config.json"
