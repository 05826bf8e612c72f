"""What `sparsify train` was asked to do; a run is resumed only under the same settings."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsify.checkpoint import write_text
from sparsify.errors import StateError
from sparsify.escaping import cut
from sparsify.files import read_json

FILE = "run.json"


@dataclass(frozen=True)
class Settings:
    """The flags of a run."""

    task: str
    model: str
    train: str
    eval: str
    epochs: float = 3.0
    batch_size: int = 32
    accumulate: int = 1
    lr: float = 5e-5
    schedule: str = "linear"
    warmup: float = 0.06
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_length: int = 128
    stride: int | None = None
    seed: int = 0
    freeze: tuple[str, ...] = ()
    label_column: str | None = None
    input_columns: tuple[str, ...] = ()
    eval_every: int | None = None
    save_every: int | None = None
    best: bool = False
    metric: str | None = None
    bf16: bool = False
    log_to: tuple[str, ...] = ()
    keep_checkpoints: bool = False
    teacher: str | None = None
    teacher_cache: str | None = None
    calibration: str | None = None
    processes: int = 1
    """Which a launcher has started; no flag."""

    @property
    def rows_per_step(self) -> int:
        """Rows that an optimizer step sees, in all processes together."""
        return self.batch_size * self.accumulate * self.processes

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON would give them back."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data


WITHOUT_CONSEQUENCE = ("log_to", "keep_checkpoints", "teacher_cache")
"""Settings that a resumed run may change."""

ON_REQUEST = ("recipe", "epochs")
"""What it may change with `--allow-changed-recipe`."""

SPREAD = ("batch_size", "accumulate", "processes")
"""How the rows of an optimizer step are spread: may change with the number of processes, if their product does not."""


@dataclass(frozen=True)
class Record:
    """What a run was begun with, and the name that it has in its checkpoints."""

    run: str
    settings: dict[str, Any]
    recipe: dict[str, str] | None
    data: dict[str, Any]

    def compared(self) -> dict[str, Any]:
        """Return what must be the same in a resumed run."""
        return {**self.settings, "recipe": (self.recipe or {}).get("sha256"), **self.data}


def write(directory: Path, record: Record) -> None:
    """Write down what a run was begun with."""
    write_text(directory / FILE, json.dumps(asdict(record), indent=2) + "\n")


def read(directory: Path) -> Record:
    """Return what the run in `directory` was begun with. Raises StateError."""
    path = directory / FILE
    data = read_json(path)
    wanted: dict[str, Any] = {"run": str, "settings": dict, "recipe": (dict, type(None)), "data": dict}
    for key, kind in wanted.items():
        if not isinstance(data, dict) or not isinstance(data.get(key), kind):
            raise StateError(f"{path} is not a record of a run of `sparsify train`: {key!r} is missing or wrong")
    return Record(**{key: data[key] for key in wanted})


def changes(directory: Path, before: Record, now: Record, *, allow_changed_recipe: bool) -> list[str]:
    """Return what a resumed run does otherwise than the run in `directory` did, where it may.

    Raises StateError, with every difference, where it may not.
    """
    old, new = _without_spread(before.compared(), now.compared())
    changed = [key for key in new if key not in WITHOUT_CONSEQUENCE and old.get(key) != new[key]]
    on_request = all(key in ON_REQUEST for key in changed) and (old["recipe"] is None) == (new["recipe"] is None)
    if changed and not (on_request and allow_changed_recipe):
        lines = [f"  {key}: {cut(repr(old.get(key)), 200)} then, {cut(repr(new[key]), 200)} now" for key in changed]
        instead = "or add --allow-changed-recipe to continue anyway" if on_request else "or another --out"
        raise StateError(
            f"{directory} holds a run that was started with other settings; give the same command, {instead}:\n"
            + "\n".join(lines)
        )
    return changed


def _without_spread(old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is compared where another number of processes goes on: the rows of an optimizer step only."""
    old = {"processes": 1, **old}
    if old["processes"] == new["processes"]:
        return old, new
    rows = "rows in an optimizer step (--batch-size × --accumulate × processes)"

    def alike(values: dict[str, Any]) -> dict[str, Any]:
        product = math.prod(values[key] for key in SPREAD if isinstance(values.get(key), int))
        return {key: value for key, value in values.items() if key not in SPREAD} | {rows: product}

    return alike(old), alike(new)
