"""`substitute`: norms become NoNorm, activations ReLU. What is meant (choosing), what configurations say (saying)."""

from sparsify.modifiers.substitute.substitute import Substitute

__all__ = ["Substitute"]
