"""A folder with a dense model → a folder with the same model, its channels in the order that suits N:M."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsify.compaction.folder import check_places, write_beside
from sparsify.permuting.found import Permuted
from sparsify.permuting.whole import SECONDS, permute_for_n_m
from sparsify.pretrained import from_folder
from sparsify.progress import task


def permute_folder(
    directory: str | Path,
    out: str | Path,
    n: int = 2,
    m: int = 4,
    *,
    seconds: float = SECONDS,
    seed: int = 0,
    inputs: Any = None,
) -> Permuted:
    """Write the model of a folder, permuted, to another one, with tokenizer, recipe and report; see `permute_for_n_m`.

    Raises PlanError for a folder without a model, CompactionError for a model that would not stay the same, StateError
    where `out` cannot be written, or is no place for it.
    """
    directory, out = Path(directory), Path(out)
    claimed = check_places(directory, out)
    with task("loading"):
        model = from_folder(directory, dtype="auto")
    found = permute_for_n_m(model, n, m, seconds=seconds, seed=seed, example_inputs=inputs)
    write_beside(model, directory, out, claimed)
    return found
