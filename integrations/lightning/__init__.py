"""`SparsifyCallback` for the stock Trainer of Lightning, in automatic and manual optimization."""

from sparsify.integrations.lightning.callback import SparsifyCallback, on_loss

__all__ = ["SparsifyCallback", "on_loss"]
