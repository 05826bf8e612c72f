"""What a family of architectures declares: classes, and paths below a layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Literal

from sparsify.spec import load_plugins

Packing = Literal["blocks", "heads"]


@dataclass(frozen=True)
class AttentionPaths:
    """Where an attention block's parts are, as paths below the layer. Blocks that a layer lacks are skipped."""

    output: str
    head_size: str = ""
    """Path of the attribute that holds the features of a head."""

    heads: str = ""
    """Path of the attribute that holds the number of query heads, where `head_size` has none."""

    query: str = ""
    key: str = ""
    value: str = ""
    fused: str = ""
    """One matrix that holds query, key and value, instead of the three; beside `query`, only key and value."""

    packing: Packing = "blocks"
    """How the fused matrix is laid out: the rows of query, key and value one after another (`blocks`; key and value may
    have fewer), or those of each head, or group of heads, together (`heads`: GPT-NeoX, BLOOM, Falcon)."""

    doubt: str = ""
    """Why heads are not offered, where the paths were inferred and could not be verified."""

    least: int = 0
    """Heads that must stay, in a layer whose class is in `least_in` (empty: in all)."""

    least_in: tuple[str, ...] = ()
    shared: bool = False
    """Whether all layers of a stack can only lose the same heads."""

    @classmethod
    def at(cls, block: str, query: str, key: str, value: str, output: str, size: str, **more: Any) -> AttentionPaths:
        """Return the paths of a block by the names in it; `size` is the attribute with the features of a head."""
        query, key, value, output, size = (f"{block}.{path}" for path in (query, key, value, output, size))
        return cls(query=query, key=key, value=value, output=output, head_size=size, **more)


@dataclass(frozen=True)
class FeedForwardPaths:
    """Where a feed-forward block's parts are; `*` stands for each of several blocks in a layer."""

    down: str
    up: str = ""
    gate: str = ""
    fused: str = ""
    """One matrix of which gate and up are the halves, in this order, instead of the two."""

    doubt: str = ""
    """Why neurons are not offered, where the paths were inferred and could not be verified."""


@dataclass(frozen=True)
class Fixed:
    """Layers that cannot be removed."""

    why: str
    """Ends the sentence that begins with the layer's name."""

    attribute: str = ""
    """A path below the layer: only layers where this attribute is true are meant; empty: all."""

    place: int | None = None
    """The only place in the stack that is meant; None: any."""


@dataclass(frozen=True)
class Architecture:
    """A family of architectures, recognised by the class names of its layers.

    `embeddings` are classes, or names, of modules that belong to the embeddings beside `nn.Embedding`. `others` are
    (role, path with `*`): of convolutions `conv` and `shortcut`, of matrices what they belong to (`attention`, `ffn`)
    where no heads or neurons are known. `stacked` says that layers are counted in each container, not through the whole
    model. `depths` are (part of a stack's name, fields of the configuration that hold its number of layers); a stack of
    another name has `num_hidden_layers`. `shared` says why layers are not there one by one, where they are not. `fixed`
    are the layers that cannot be removed. `fits` are alternatives, each of them paths that a layer must have: a class
    that only bears the same name is not of the family. `inferred` says that nobody has declared it.
    """

    name: str
    layers: tuple[str, ...]
    attentions: tuple[AttentionPaths, ...] = ()
    feed_forwards: tuple[FeedForwardPaths, ...] = ()
    others: tuple[tuple[str, str], ...] = ()
    embeddings: tuple[str, ...] = ()
    stacked: bool = True
    depths: tuple[tuple[str, tuple[str, ...]], ...] = ()
    shared: str = ""
    fixed: tuple[Fixed, ...] = ()
    fits: tuple[tuple[str, ...], ...] = ()
    inferred: bool = False


_known: dict[str, Architecture] = {}
_shipped: set[str] = set()
"""The names of our own."""


def register(family: Architecture) -> None:
    """Make a family known; the module of a plug-in calls it."""
    _known[family.name] = family


def architectures() -> Iterable[Architecture]:
    """Return all families, ours and those of plug-ins, by name."""
    _ours()
    load_plugins()
    return [_known[name] for name in sorted(_known)]


def foreign() -> list[Architecture]:
    """Return the families that are not ours: those of plug-ins, or registered by a program."""
    return [family for family in architectures() if family.name not in _shipped]


@cache
def _ours() -> None:
    package = import_module("sparsify.anatomy.families")
    others = dict(_known)
    _known.clear()
    for info in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{info.name}")
    _shipped.update(_known)
    _known.update(others)
