"""Layers of others, made known by `register_layer`: classes with matrices that we do not know of ourselves."""

from __future__ import annotations

from torch import nn

from sparsify.errors import SparsifyError, did_you_mean
from sparsify.layers.storage import LAYOUTS, Layout, Storage
from sparsify.spec import load_plugins

_STACKED: dict[str, Layout] = {"experts": "linear", "experts transposed": "transposed"}
"""Words for stacks of matrices, each a tensor of its own: [experts, out, in] and [experts, in, out]."""

STORED = tuple(name for name in LAYOUTS if name not in ("embedding", "bias")) + tuple(_STACKED)
"""What `register_layer` understands."""

_known: dict[type[nn.Module] | str, dict[str, str]] = {}


def register_layer(kind: type[nn.Module] | str, **stored: str) -> None:
    """Make the weights of a class of modules prunable: attribute → how it stores its matrix.

    `kind` is the class, or its bare name where importing it would cost too much; subclasses are meant too. A matrix is
    `linear` [out, in], `transposed` [in, out], `conv` [out, in, *kernel], `deconv` [in, out, *kernel], `bilinear` [out,
    in, in], `experts` [experts, out, in] or `experts transposed` [experts, in, out]; its bias, if any, is called `bias`
    (`x_proj_bias` beside `x_proj`). Forward must read the parameter itself. Raises SparsifyError for other words.

    Examples:
        >>> import sparsify, torch
        >>> from sparsify.layers import all_weights
        >>> class Scaled(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.matrix = torch.nn.Parameter(torch.ones(3, 4))
        >>> all_weights(Scaled())  # what a class of your own keeps is not known …
        []
        >>> sparsify.register_layer(Scaled, matrix="linear")
        >>> [weight.name for weight in all_weights(Scaled())]  # … until it is registered
        ['matrix']
    """
    if not (isinstance(kind, str) or (isinstance(kind, type) and issubclass(kind, nn.Module))):
        raise SparsifyError(f"register_layer wants a class of modules or its name, got {kind!r:.80}")
    name = kind if isinstance(kind, str) else kind.__name__
    if not stored:
        raise SparsifyError(f"register_layer({name}): name its weights, such as weight='linear'")
    for attribute, word in stored.items():
        if word not in STORED:
            hint = did_you_mean(str(word), STORED, most=len(STORED))
            raise SparsifyError(f"register_layer({name}): {attribute} cannot be stored as {word!r}{hint}")
    _known[kind] = dict(stored)


def registered(module: nn.Module) -> dict[str, Storage]:
    """Return how the weights of a module of a registered class are stored, by attribute; empty for other classes."""
    load_plugins()
    for cls in type(module).__mro__ if _known else ():
        stored = _known.get(cls) or _known.get(cls.__name__)
        if stored:
            return {attribute: _storage(module, attribute, word) for attribute, word in stored.items()}
    return {}


def _storage(module: nn.Module, attribute: str, word: str) -> Storage:
    if word in _STACKED:
        parameter = module._parameters.get(attribute)
        return Storage(_STACKED[word], len(parameter) if parameter is not None else 0)
    layout = next(each for each in LAYOUTS if each == word)
    groups = int(getattr(module, "groups", 1)) if layout == "deconv" else 1
    return Storage(layout, groups if groups > 1 else 0, flat=groups > 1)
