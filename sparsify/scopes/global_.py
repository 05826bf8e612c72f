"""Global scope: all targeted tensors compete for one budget."""

from collections.abc import Sequence
from typing import Literal

from sparsify.scopes.base import Scope


class GlobalScope(Scope):
    """All tensors are one arena: some end denser than the target, some sparser."""

    type: Literal["global"] = "global"

    def arenas(self, tensors: int) -> Sequence[Sequence[int]]:
        return [list(range(tensors))] if tensors else []
