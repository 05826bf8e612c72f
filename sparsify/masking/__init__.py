"""From scores to masks, and from masks to weights."""

from sparsify.masking.arena import mask_tensors
from sparsify.masking.project import count_zeros, project_
from sparsify.masking.selection import Contender, budget, select

__all__ = ["Contender", "budget", "count_zeros", "mask_tensors", "project_", "select"]
