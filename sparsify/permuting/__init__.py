"""Channels in the order that suits N:M, before training: a model that computes the same."""

from sparsify.permuting.found import BlockKept, Permuted
from sparsify.permuting.whole import permute_for_n_m

__all__ = ["BlockKept", "Permuted", "permute_for_n_m"]
