"""`freeze`: parameters that stop being trained for a while."""

from sparsify.modifiers.freeze.freeze import Freeze

__all__ = ["Freeze"]
