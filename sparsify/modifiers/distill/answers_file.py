"""The answers of one teacher: in memory, and in files that are whole or absent, `teacher-<checksum>.safetensors`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsify import ranks
from sparsify.checkpoint import write_whole
from sparsify.errors import PlanError, StateError
from sparsify.files import check_regular
from sparsify.modifiers.distill.answers import Layout, Table, check
from sparsify.state_reader import StateReader

FORMAT = "sparsify teacher cache 1"


def folder_of(given: Any, name: str) -> Path | None:
    """Return the folder that a binding names, None without one. Raises PlanError for anything else."""
    if given is None:
        return None
    if not isinstance(given, (str, os.PathLike)) or not str(given):
        raise PlanError(f"{name} must be a folder, got a {type(given).__name__}")
    folder = Path(given)
    if os.path.lexists(folder) and not folder.is_dir():
        raise PlanError(f"{name}: {folder} is no folder")
    if find_spec("safetensors") is None:
        raise PlanError(f"{name} needs safetensors: pip install safetensors")
    return folder


class Answers:
    """What the teacher with a checksum has said. With a folder it is found there, and kept there.

    Several processes keep a file each, and begin with what is in all of them; files of other teachers are let alone.
    """

    def __init__(self, checksum: str, folder: Path | None, keeper: str) -> None:
        self.checksum, self.folder = checksum, folder
        self.keeper = keeper
        """The modifier whose state holds them, where there is no folder: several may share a teacher."""

        self._tables: dict[str, Table] = {}
        self._written = 0
        self._read()

    def __len__(self) -> int:
        return sum(len(table) for table in self._tables.values())

    def table(self, layout: Layout) -> Table:
        """Return the table of a layout."""
        return self._tables.setdefault(layout.name, Table(layout))

    def turn_to(self, checksum: str) -> None:
        """Forget everything if these are another teacher's, and read that one's."""
        if checksum != self.checksum:
            self.checksum, self._tables = checksum, {}
            self._read()

    # ------------------------------------------------------------------ state

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return everything as tensors, by table and name."""
        return {name: table.state() for name, table in self._tables.items()}

    def take_up(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on with the answers of a state that was checked; with a folder those in it stay, too."""
        if self.folder is None:
            self._tables = {}
        for name, table in state.items():
            layout = Layout.named(name)
            assert layout is not None
            self.table(layout).take_up(table)

    # ------------------------------------------------------------------ files

    def remove(self) -> None:
        """The training is over, as for the handle of a hook: keep what is not written yet."""
        self.write_or_warn()

    def write_or_warn(self) -> None:
        """Write the file; a folder that cannot be written to ends no training."""
        try:
            self.write()
        except StateError as error:
            warnings.warn(f"the teacher's answers are not kept: {error}", stacklevel=2)

    def write(self) -> None:
        """Write the file, where there is a folder and something new. Raises StateError if it cannot be written."""
        if self.folder is None or len(self) == self._written:
            return
        from safetensors.torch import save

        tensors = {f"{name}.{field}": tensor for name, part in self.state().items() for field, tensor in part.items()}
        whole = save(tensors, metadata={"format": FORMAT, "teacher": self.checksum})
        own = f"-{ranks.number()}" if ranks.number() else ""
        write_whole(self.folder / f"{self._stem}{own}.safetensors", lambda file: file.write(whole))
        self._written = len(self)

    @property
    def _stem(self) -> str:
        return f"teacher-{self.checksum[:16]}"

    def _read(self) -> None:
        if self.folder is not None and self.folder.is_dir():
            for path in sorted(self.folder.glob(f"{self._stem}*.safetensors")):
                self._read_one(path)
        self._written = len(self)

    def _read_one(self, path: Path) -> None:
        tensors, metadata = _contents(path)
        if metadata.get("format") != FORMAT:
            what = "is not a cache of a teacher's answers that sparsify wrote"
            raise StateError(f"{path} {what}: remove it, or choose another folder")
        if metadata.get("teacher") != self.checksum:
            raise StateError(f"{path} is of another teacher than its name says: remove it, or choose another folder")
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            table, _, field = name.partition(".")
            parts.setdefault(table, {})[field] = tensor
        check_tables(StateReader(parts, str(path)))
        for name, part in parts.items():
            layout = Layout.named(name)
            assert layout is not None
            self.table(layout).take_up(part)


def check_tables(saved: StateReader) -> None:
    """Raise StateError for tables that cannot be taken up."""
    for name in saved:
        layout = Layout.named(name)
        if layout is None:
            raise saved.fail(name, "is not known here")
        check(saved.part(name), layout)


def _contents(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file, and what it says of itself. Raises StateError."""
    from safetensors import safe_open

    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in list(file.keys())}, dict(file.metadata() or {})
    except Exception as error:  # the library raises of every kind
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise StateError(f"{path} cannot be read: {first[0][:200]}; remove it, or choose another folder") from None
