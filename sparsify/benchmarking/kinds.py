"""What a function of torch that a model calls is for: one of a few kinds, whose times say where a forward goes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

SPARSE, DENSE, ATTENTION, NORMS = "sparse products", "dense products", "attention and softmax", "norms"
ACTIVATIONS, EMBEDDINGS, ELEMENTS = "activations", "embeddings", "sums and other arithmetic"
COPIES, OTHER = "views and copies", "other functions"
BETWEEN = "between functions"
"""Python: modules, arguments, and the watch itself."""

KINDS = (SPARSE, DENSE, ATTENTION, NORMS, ACTIVATIONS, EMBEDDINGS, ELEMENTS, COPIES, OTHER, BETWEEN)

ENGINE = "sparsify."
"""What the names of the engine's operators begin with."""
PRODUCTS = ("linear", "convolution")
"""And those of the operators that multiply by packed weights: their second argument."""

_NAMES = {
    DENSE: "linear addmm mm mv bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    ATTENTION: "attention scaled_dot_product_attention softmax log_softmax masked_fill masked_fill_ "
    "multi_head_attention_forward",
    NORMS: "layer_norm batch_norm group_norm instance_norm rms_norm local_response_norm normalize rsqrt",
    ACTIVATIONS: "relu relu_ relu6 gelu silu silu_ tanh sigmoid hardswish hardsigmoid leaky_relu elu selu mish "
    "softplus prelu glu logsigmoid",
    EMBEDDINGS: "embedding embedding_bag",
    ELEMENTS: "add add_ sub sub_ mul mul_ div div_ pow neg sum mean __add__ __radd__ __iadd__ __sub__ __rsub__ "
    "__isub__ __mul__ __rmul__ __imul__ __truediv__ __rtruediv__ __itruediv__ __pow__ __neg__",
    COPIES: "view reshape transpose permute contiguous clone copy_ to float half bfloat16 type_as cat stack split "
    "chunk unbind expand repeat flatten unflatten squeeze unsqueeze narrow select __getitem__ __setitem__ dropout",
}
_KINDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}
_WITH_OR_WITHOUT = {"matmul", "bmm", "baddbmm", "einsum", "__matmul__", "__rmatmul__"}
"""Products that belong to attention where none of the tensors is a weight."""


def is_engines(function: Any, *names: str) -> bool:
    """Whether a function is an operator of the engine whose name begins with one of some."""
    return str(function).startswith(ENGINE) and getattr(function, "__name__", "").startswith(names)


def kind_of(function: Any, arguments: Iterable[Any]) -> str:
    """Return the kind of a function that was called with such arguments."""
    name = getattr(function, "__name__", "")
    if is_engines(function, *PRODUCTS):
        return SPARSE
    if name in _WITH_OR_WITHOUT:
        return DENSE if any(isinstance(each, nn.Parameter) for each in arguments) else ATTENTION
    return _KINDS.get(name, OTHER)
