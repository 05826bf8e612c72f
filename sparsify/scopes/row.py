"""Row scope: every output feature keeps the same share of its inputs."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from sparsify.scopes.base import Arena, BundleFacts, Scope


class RowScope(Scope):
    """Each row of groups has its own budget: every output keeps inputs.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (2024), §3: they
    compare per output.
    """

    type: Literal["row"] = "row"
    by_row: ClassVar[bool] = True

    def arenas(self, facts: Sequence[BundleFacts]) -> list[Arena]:
        return [[index] for index in range(len(facts))]
