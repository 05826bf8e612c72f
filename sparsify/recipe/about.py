"""Who made a recipe, for what, and what it gave."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sparsify.spec import Spec, integral


class Result(Spec):
    """One measured result, with what it takes to measure it again."""

    metric: str
    """Such as `accuracy` or `f1`."""

    dense: float | None = None
    """The metric of the dense model, trained with the same budget."""

    sparse: float
    """The metric under this recipe."""

    sparsity: Annotated[float, Field(ge=0, le=1)] | None = None
    """Fraction of the targeted weights that is zero."""

    dataset: str = ""
    """Data and split."""

    model: str = ""
    """The model measured."""

    seeds: Annotated[int, Field(ge=1), integral] = 1
    """How many runs were averaged."""

    command: str = ""
    """The command that gave it."""


class About(Spec):
    """Free of consequences: nothing here changes what a recipe does, nor its hash."""

    authors: list[str] = []
    """Who wrote it."""

    base_model: str = ""
    """The model that it was made for."""

    task: str = ""
    """Such as `text-classification`."""

    license: str = ""
    """An SPDX identifier."""

    tags: list[str] = []
    """Words to find it by."""

    results: list[Result] = []
    """What was measured with it."""
