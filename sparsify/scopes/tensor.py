"""Tensor scope: every tensor reaches the sparsity by itself."""

from collections.abc import Sequence
from typing import Literal

from sparsify.scopes.base import Scope


class TensorScope(Scope):
    """Each tensor is an arena (uniform sparsity)."""

    type: Literal["tensor"] = "tensor"

    def arenas(self, tensors: int) -> Sequence[Sequence[int]]:
        return [[index] for index in range(tensors)]
