"""Which environments there are: the table in environments.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

FILE = Path(__file__).with_name("environments.yaml")
ROOT = Path(__file__).parents[2]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Environment(_Row):
    """One virtual environment: a Python, and which versions of the packages that pyproject.toml names."""

    name: str
    python: str
    packages: Literal["oldest", "newest"]
    extras: tuple[str, ...]
    warnings: Literal["error", "default"] = "error"


class Expected(_Row):
    """A Python that is allowed and was not run."""

    python: str
    reason: str


class Table(_Row):
    """The whole file."""

    subset: tuple[str, ...]
    environments: tuple[Environment, ...]
    expected: tuple[Expected, ...]


def table() -> Table:
    """Read environments.yaml; raises `pydantic.ValidationError` for fields that are not meant."""
    return Table.model_validate(yaml.safe_load(FILE.read_text(encoding="utf-8")))
