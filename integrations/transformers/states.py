"""Our part of the Trainer's checkpoints: where it lies, what it holds, and who may write it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsify import StateError, checkpoint

STATE = "sparsify.pt"
"""Our file in the Trainer's checkpoints."""


def read(folder: Path) -> dict[str, Any]:
    """Return our part of a checkpoint: `step`, `reached`, `manager`. Raises StateError."""
    if not (folder / STATE).is_file():
        raise StateError(f"{folder} has no {STATE}: it was made without a recipe")
    parts = checkpoint.load(folder / STATE)
    step, reached, manager = (parts.get(name) for name in ("step", "reached", "manager"))
    if type(step) is not int or not (reached is None or type(reached) is int) or not isinstance(manager, dict):
        what = "step, reached or manager is missing or wrong"
        raise StateError(f"{folder / STATE} is not a state that sparsify wrote: {what}")
    return parts


def given(*places: str | Path | bool | None) -> dict[str, Any] | None:
    """Return the manager's state in the first of some places that is a checkpoint of ours; None where none is."""
    folders = [Path(place) for place in places if isinstance(place, (str, Path))]
    found = next((folder for folder in folders if (folder / STATE).is_file()), None)
    return None if found is None else read(found)["manager"]


def resumed_from(args: Any, state: Any, places: Sequence[str | Path | bool | None]) -> Path:
    """Return the folder that the Trainer has resumed from: one of `places`, or that of its step in `output_dir`.

    Raises StateError if there is none.
    """
    name = f"checkpoint-{state.global_step}"
    named = [Path(place) for place in places if isinstance(place, (str, Path)) and Path(place).name == name]
    here = Path(args.output_dir) / name
    found = [place for place in [*named, here, *_trials(args, name)[-1:]] if place.is_dir()]
    if not found:
        raise StateError(
            f"the Trainer resumed at step {state.global_step}, but there is no {here}; "
            "say where the checkpoint lies: SparsifyCallback(…, checkpoint=…)"
        )
    return found[0]


def written_to(args: Any, state: Any) -> Path:
    """Return the folder of the checkpoint that the Trainer has just written."""
    name = f"checkpoint-{state.global_step}"
    trials = _trials(args, name) if state.is_hyper_param_search else []
    return trials[-1] if trials else Path(args.output_dir) / name


def _trials(args: Any, name: str) -> list[Path]:
    """Return the folders of this name that trials of a search for hyperparameters wrote, the last one last."""
    return sorted(Path(args.output_dir).glob(f"run-*/{name}"), key=lambda path: path.stat().st_mtime)
