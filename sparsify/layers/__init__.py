"""Which parameters can be pruned, and how each is seen."""

from sparsify.layers.adapters import adapted, adapters, base_names, in_use, originals
from sparsify.layers.alike import settings
from sparsify.layers.kinds import TABLES, aliases, all_weights, layouts, raw, unprunable, unsuitable, weights
from sparsify.layers.places import Places
from sparsify.layers.registry import register_layer
from sparsify.layers.storage import Storage
from sparsify.layers.weight import Geometry, Rows, Weight, merged, row_span, shared_rows
from sparsify.layers.wrappers import Named, plain, unwrap

__all__ = [
    "TABLES",
    "Geometry",
    "Named",
    "Places",
    "Rows",
    "Storage",
    "Weight",
    "adapted",
    "adapters",
    "aliases",
    "all_weights",
    "base_names",
    "in_use",
    "layouts",
    "merged",
    "originals",
    "plain",
    "raw",
    "register_layer",
    "row_span",
    "settings",
    "shared_rows",
    "unprunable",
    "unsuitable",
    "unwrap",
    "weights",
]
