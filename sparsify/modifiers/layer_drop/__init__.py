"""`layer_drop`: which layers stay (keep), decided (choosing) before the training; the modifier itself."""

from sparsify.modifiers.layer_drop.layer_drop import LayerDrop

__all__ = ["LayerDrop"]
