"""What is a weight worth? Scores, higher = keep. One criterion a file."""

from sparsify.criteria.base import Criterion
from sparsify.spec import discover

discover(__name__)

__all__ = ["Criterion"]
