"""What `sparsify train` was asked to do; a run is resumed only under the same settings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsify.checkpoint import write_text
from sparsify.errors import StateError

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
    seed: int = 0
    freeze: tuple[str, ...] = ()
    label_column: str | None = None
    input_columns: tuple[str, ...] = ()
    eval_every: int | None = None
    save_every: int | None = None
    best: bool = False
    bf16: bool = False
    log_to: tuple[str, ...] = ()
    keep_checkpoints: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON would give them back."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data


WITHOUT_CONSEQUENCE = ("log_to", "keep_checkpoints")
"""Settings that a resumed run may change."""


def write(directory: Path, settings: Settings, recipe: dict[str, str] | None, data: dict[str, Any]) -> None:
    """Write down what a run was begun with."""
    record = {"settings": settings.to_dict(), "recipe": recipe, "data": data}
    write_text(directory / FILE, json.dumps(record, indent=2) + "\n")


def check(directory: Path, settings: Settings, recipe: dict[str, str] | None, data: dict[str, Any]) -> None:
    """Raise StateError, with every difference, unless the run in `directory` was begun with the same."""
    try:
        saved = json.loads((directory / FILE).read_text())
        before = {**saved["settings"], "recipe": (saved["recipe"] or {}).get("sha256"), **saved["data"]}
    except FileNotFoundError:
        raise StateError(f"{directory}: there is no run to resume here ({FILE} is missing)") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{directory / FILE} cannot be read: {error}") from None
    now = {**settings.to_dict(), "recipe": (recipe or {}).get("sha256"), **data}
    changed = [key for key in now if key not in WITHOUT_CONSEQUENCE and before.get(key) != now[key]]
    if changed:
        lines = [f"  {key}: {before.get(key)!r} then, {now[key]!r} now" for key in changed]
        raise StateError(
            f"{directory} holds a run that was begun otherwise; give the same command, or another --out:\n"
            + "\n".join(lines)
        )
