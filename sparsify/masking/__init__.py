"""From scores to masks, and from masks to weights."""

from sparsify.masking.competition import Competition, Share
from sparsify.masking.project import count_zeros, project_
from sparsify.masking.selection import Contender, budget, select

__all__ = ["Competition", "Contender", "Share", "budget", "count_zeros", "project_", "select"]
