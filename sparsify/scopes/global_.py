"""Global scope: all targeted tensors compete for one budget."""

from typing import Any, ClassVar, Literal

from sparsify.scopes.base import Pooled


class GlobalScope(Pooled):
    """All tensors (or those of a role or layer) share one budget: some end denser than the target, some sparser."""

    type: Literal["global"] = "global"
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"floor": 0.2, "ceiling": 0.9}, {"within": "layer"})
