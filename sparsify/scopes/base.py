"""The family of scopes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from sparsify.spec import Family


class Scope(Family):
    """Divides the targeted tensors into arenas; groups compete within their arena only."""

    family: ClassVar[str] = "scope"

    def arenas(self, tensors: int) -> Sequence[Sequence[int]]:
        """Return the arenas, each a list of indices of tensors, in order; together 0 … tensors − 1."""
        raise NotImplementedError(type(self).__name__)
