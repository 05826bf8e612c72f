"""`regrow`: fields ← plan and phases ← run; who is dropped and who grows is chosen in `exchange`."""

from sparsify.modifiers.regrow.regrow import Regrow

__all__ = ["Regrow"]
