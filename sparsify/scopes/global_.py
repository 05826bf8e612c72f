"""Global scope: all targeted tensors compete for one budget."""

from typing import Any, ClassVar, Literal

from sparsify.scopes.base import Pooled


class GlobalScope(Pooled):
    """All tensors are one arena (or one a role, or a layer): some end denser than the target, some sparser."""

    type: Literal["global"] = "global"
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"floor": 0.2, "ceiling": 0.9}, {"within": "layer"})
