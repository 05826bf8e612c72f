"""Families for layers that nobody has declared: guessed from names and shapes, and tried before they are believed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any, TypeVar

import torch
from torch import nn

from sparsify.anatomy import guess
from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths
from sparsify.anatomy.building import below, join
from sparsify.anatomy.repeated import Element
from sparsify.anatomy.trial import RefutedError, Trial
from sparsify.anatomy.twin import Twin, UnverifiedError
from sparsify.layers import settings
from sparsify.progress import each

Paths = TypeVar("Paths", AttentionPaths, FeedForwardPaths)

UNKNOWN = "not verified"

_found: dict[Any, Architecture] = {}
_lock = Lock()


class Inference:
    """What is inferred about the layers of one model. Results are kept for layers of the same classes and shapes."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._trial: Trial | None = None
        self._unable = ""
        self._mine: dict[Any, Architecture] = {}
        """What was found in this model; where something could not be tried, another model may tell more."""

    def families(self, found: Sequence[Element], declared: Collection[str]) -> Iterator[Architecture]:
        """Yield the family of every element, in order. What lies in other elements, or `declared` layers, is theirs."""
        inside = [*declared, *(name for _, name, _ in found)]
        for _, name, module in each("reading layers", found):
            inner = [other for other in inside if other != name and below(other, name)]
            key = settings(module, places=False), tuple(other.removeprefix(name) for other in inner)
            with _lock:
                family = self._mine.get(key) or _found.get(key) or self._infer(name, module, inner)
            self._mine[key] = family
            doubts = [*(paths.doubt for paths in family.attentions), *(paths.doubt for paths in family.feed_forwards)]
            if not any(doubt.startswith(UNKNOWN) for doubt in doubts):
                _found[key] = family
            yield family

    def _infer(self, name: str, module: nn.Module, inner: Sequence[str]) -> Architecture:
        """Return the family of one layer; what lies in layers inside it is theirs."""

        def mine(path: str) -> bool:
            return not any(below(f"{join(name, path)}.", other) for other in inner)

        attentions = [
            believed
            for options in guess.attentions(module)
            if mine(options[0].output) and (believed := self._believed(name, options, guess.is_attention)) is not None
        ]
        taken = {p for a in attentions for p in (a.query, a.key, a.value, a.fused, a.output) if p}
        feed_forwards = [
            known
            for choices in guess.feed_forwards(module, taken)
            if mine(choices[0].down) and (known := self._believed(name, choices, guess.is_feed_forward)) is not None
        ]
        taken |= {p for f in feed_forwards for p in (f.up, f.gate, f.fused, f.down) if p}
        loose = tuple((role, path) for role, path in guess.loose(module, taken) if mine(path))
        kind = type(module).__name__
        others = (("conv", "*"), *loose)
        return Architecture(kind, (kind,), tuple(attentions), tuple(feed_forwards), others, inferred=True)

    def _believed(self, layer: str, options: list[Paths], named: Callable[[Paths], bool]) -> Paths | None:
        """Return the first option that holds; or the likeliest, in doubt, where names alone say what it is."""
        doubt = ""
        for option in options:
            try:
                with torch.device("cpu"):  # whatever device is the default where a model is read
                    self._tried().try_out(layer, option)
            except RefutedError as error:
                doubt = doubt or f"not so when it was tried: {error}"
            except UnverifiedError as error:
                doubt = f"{UNKNOWN}: {error}"
                break
            else:
                return option
        if not named(options[0]):
            return None
        return replace(options[0], doubt=doubt)

    def _tried(self) -> Trial:
        """Return what tries blocks. Raises UnverifiedError where the model has no twin."""
        if self._unable:
            raise UnverifiedError(self._unable)
        if self._trial is None:
            try:
                self._trial = Trial(Twin(self.model))
            except UnverifiedError as error:
                self._unable = str(error)
                raise
            except Exception as error:  # a module that cannot be copied
                self._unable = f"the model cannot be copied ({type(error).__name__}: {error})"
                raise UnverifiedError(self._unable) from None
        return self._trial
