"""Transformers' Conv1D (GPT-2), whose weight is stored as [inputs, outputs]; imported where a model has one."""

from __future__ import annotations

from typing import ClassVar

from transformers.pytorch_utils import Conv1D

from sparsify.engine.layer import Sparse


class SparseConv1D(Sparse, Conv1D):  # type: ignore[misc]
    """A Conv1D whose product is the engine's."""

    transposed: ClassVar[bool] = True
