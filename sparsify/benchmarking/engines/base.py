"""What runs a model: an engine prepares it once, opens it, and binds it to inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparsify.report.latency import Call

Inputs = Mapping[str, Tensor]
Bind = Callable[[Inputs], Call]
"""From inputs to a call that computes the outputs for them; what converts inputs is not timed."""


@dataclass(frozen=True)
class Prepared:
    """What an engine opens: a model's folder, or a file made of it."""

    path: Path
    model: nn.Module | None = None
    """The model, where it is loaded already; an engine that needs it loads it otherwise."""


@dataclass(frozen=True)
class Forward:
    """A call of a model whose modules run one by one, in PyTorch: such a call can be looked into."""

    model: nn.Module
    inputs: Inputs

    @torch.inference_mode()
    def __call__(self) -> object:
        """Compute the outputs."""
        return self.model(**self.inputs)


class Engine(ABC):
    """A way to run models. Another one is a file with a class, and its line in `ENGINES`."""

    name: ClassVar[str]
    about: ClassVar[str]
    """What it computes with, for a sentence: `… multiplies dense matrices`."""

    skips_zeros: ClassVar[bool] = False
    """Whether zeros at single places cost it nothing."""

    shows_layers: ClassVar[bool] = False
    """Whether its calls are `Forward`s."""

    def missing(self) -> str | None:
        """Return why it does not work here, and what would help, or None."""
        return None

    def prepare(self, model: Prepared, folder: Path) -> Prepared:
        """Return what `open` takes; files are made in `folder`. Raises SparsifyError where the model cannot be run."""
        return model

    @abstractmethod
    def load(self) -> None:
        """Import what the engine needs, so that its memory is not taken for the model's."""

    @abstractmethod
    def open(self, prepared: Prepared, threads: int) -> Bind:
        """Make the model ready to run."""
