"""Tensor scope: every tensor reaches the sparsity by itself."""

from collections.abc import Sequence
from typing import Literal

from sparsify.scopes.base import Arena, BundleFacts, Scope


class TensorScope(Scope):
    """Each tensor has its own budget (uniform sparsity); with heads and neurons, each block."""

    type: Literal["tensor"] = "tensor"

    def arenas(self, facts: Sequence[BundleFacts]) -> list[Arena]:
        return [[index] for index in range(len(facts))]
