"""Which parameters can be pruned, and how each is seen."""

from sparsify.layers.kinds import aliases, all_weights, computed, layouts, unsuitable, weights
from sparsify.layers.places import Places
from sparsify.layers.weight import Geometry, Weight, merged, row_span, shared_rows
from sparsify.layers.wrappers import Named, plain, unwrap

__all__ = [
    "Geometry",
    "Named",
    "Places",
    "Weight",
    "aliases",
    "all_weights",
    "computed",
    "layouts",
    "merged",
    "plain",
    "row_span",
    "shared_rows",
    "unsuitable",
    "unwrap",
    "weights",
]
