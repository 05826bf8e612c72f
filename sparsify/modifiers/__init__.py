"""What lives during training. One modifier a file: its frozen spec, and what runs."""

from sparsify.modifiers.contract import Modifier
from sparsify.spec import discover

discover(__name__)

__all__ = ["Modifier"]
