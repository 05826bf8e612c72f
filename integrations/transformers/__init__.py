"""`SparsifyCallback` for the stock `Trainer` of transformers: no subclass, no wrapped optimizer."""

from sparsify.integrations.common.checkpoints import last_whole
from sparsify.integrations.transformers.callback import SparsifyCallback

__all__ = ["SparsifyCallback", "last_whole"]
