"""`distill`: fields and terms ← plan ← run; losses, positions, layer map, teacher, recorder and projections beside."""

from sparsify.modifiers.distill.distill import Distill

__all__ = ["Distill"]
