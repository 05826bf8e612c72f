"""From sparse to small: dead structure leaves a model, exactly; smaller models are saved and loaded."""

from sparsify.compaction.saving import load, save
from sparsify.compaction.smaller import Compacted, Width, compact, compacted
from sparsify.compaction.stock import Loading

__all__ = ["Compacted", "Loading", "Width", "compact", "compacted", "load", "save"]
