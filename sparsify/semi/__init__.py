"""2:4 on CUDA with torch's own kernels, layer by layer where a trial is faster."""

from sparsify.semi.chosen import Choice, Chosen
from sparsify.semi.converting import to_dense
from sparsify.semi.whole import to_semi_structured

__all__ = ["Choice", "Chosen", "to_dense", "to_semi_structured"]
