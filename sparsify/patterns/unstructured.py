"""Unstructured: every weight for itself."""

from typing import Literal

from sparsify.patterns.base import Pattern


class Unstructured(Pattern):
    """Groups of one weight. Best accuracy at a given sparsity; no speed-up from dense kernels."""

    type: Literal["unstructured"] = "unstructured"
