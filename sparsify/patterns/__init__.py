"""Which weights live or die together? One pattern a file."""

from sparsify.patterns.base import Pattern
from sparsify.spec import discover

discover(__name__)

__all__ = ["Pattern"]
