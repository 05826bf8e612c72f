"""`SparsifyCallback` for the stock `Trainer` of transformers: no subclass, no wrapped optimizer."""

from sparsify.integrations.transformers.callback import SparsifyCallback
from sparsify.integrations.transformers.checkpoints import last_whole

__all__ = ["SparsifyCallback", "last_whole"]
