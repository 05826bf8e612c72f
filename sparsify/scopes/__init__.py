"""Who competes with whom? One scope a file."""

from sparsify.scopes.base import Scope
from sparsify.spec import discover

discover(__name__)

__all__ = ["Scope"]
