"""What was run: one entry for each environment, in record.json."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

FILE = Path(__file__).with_name("record.json")
SHOWN = ("torch", "transformers", "accelerate", "lightning", "datasets", "pydantic", "PyYAML", "google-re2", "typer",
         "rich", "numpy", "safetensors", "onnx", "onnxruntime", "onnxscript", "matplotlib", "scikit-learn", "zstandard", "pillow")  # fmt: skip
"""Packages whose versions are kept: those that pyproject.toml names."""


class Entry(BaseModel):
    """One run of the tests in one environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    python: str
    """The whole version, as 3.11.7."""
    packages: dict[str, str]
    tests: str
    """`subset` (see environments.yaml) or `all`: the default suite."""
    warnings: str
    passed: int
    failed: int
    skipped: int
    again: tuple[str, ...] = ()
    """Files in which tests failed at first, for what was then mended; they were run again alone (`--failed`)."""
    note: str = ""
    """What else must be said: whether it was stopped, what failed, and what was done about it."""
    test_seconds: float
    """Wall-clock seconds of the tests."""
    build_seconds: float
    """Wall-clock seconds of installing, with packages downloaded or from a cache."""
    disk_gigabytes: float
    """What the environment takes on disk, in 10⁹ bytes."""
    date: str
    commit: str
    """The commit that was tested; with `+` where files were changed beside it."""


ENTRIES = TypeAdapter(list[Entry])


def read() -> dict[str, Entry]:
    """Return what is recorded, by the environment's name."""
    if not FILE.exists():
        return {}
    return {entry.name: entry for entry in ENTRIES.validate_json(FILE.read_bytes())}


def write(entry: Entry) -> None:
    """Put an entry into the record, in the place of an earlier one of the same name."""
    entries = [each.model_dump() for each in (read() | {entry.name: entry}).values()]
    FILE.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
