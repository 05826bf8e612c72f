"""What is distilled: logits, hidden states, attention maps. One term is one loss with its weight."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from sparsify.schedules import Factor
from sparsify.spec import Family, fail_at, integral

Positive = Annotated[float, Field(gt=0, le=1e6)]
Number = Annotated[int, Field(ge=0, le=9999), integral]
Pair = Annotated[tuple[Number, Number], Field(strict=False)]


class Term(Family):
    """A part of the distillation loss."""

    family: ClassVar[str] = "distillation term"

    weight: Factor = Field(default=Factor.model_validate(1.0), json_schema_extra={"default": 1})
    """What the term is multiplied by; a number, or a level that changes from the beginning to the end of `distill`."""


class LogitsTerm(Term):
    """The outputs: what the teacher says about each class, answer or token. Padding and labels of −100 are left out."""

    type: Literal["logits"] = "logits"

    loss: Literal["kl", "jsd", "mse", "cosine"] = "kl"
    """`kl`: T²·KL(teacher ‖ student); `jsd`: the generalized Jensen–Shannon divergence, times T²; `mse` and `cosine`
    compare the logits themselves."""

    temperature: Positive = 1.0
    """T, which softens both distributions, for `kl` and `jsd`."""

    beta: Annotated[float, Field(ge=0, le=1)] | None = None
    """β of `jsd`: 0 is forward KL, 1 reverse KL; ½ where it is left out."""

    @model_validator(mode="after")
    def _fields_go_together(self) -> Self:
        if self.beta is not None and self.loss != "jsd":
            raise fail_at("LogitsTerm", ("beta",), f"only `jsd` has a beta; the loss is {self.loss}", self.beta)
        if self.temperature != 1.0 and self.loss not in ("kl", "jsd"):
            message = f"{self.loss} compares logits, so it takes no temperature"
            raise fail_at("LogitsTerm", ("temperature",), message, self.temperature)
        return self


class LayerTerm(Term):
    """The base of terms that compare layers of the student with layers of the teacher."""

    layers: Annotated[tuple[Pair, ...], Field(strict=False, min_length=1)] | None = None
    """Pairs [student, teacher] of layer numbers, the student's as they were before any layer was dropped.

    Left out: each layer with the one of its original number; where the teacher is deeper or shallower, evenly spread.
    """

    @model_validator(mode="after")
    def _pairs_are_distinct(self) -> Self:
        pairs = self.layers or ()
        for index, pair in enumerate(pairs):
            if pair in pairs[:index]:
                raise fail_at("LayerTerm", ("layers", index), f"the pair {list(pair)} is given twice", pair)
        return self


class HiddenTerm(LayerTerm):
    """What comes out of layers. Where the widths differ, a projection is learned beside the model. Padding is left out.

    Sources: Romero et al., "FitNets" (2014); Kurtic et al., "Sparse Fine-tuning for Inference Acceleration" (2023).
    """

    type: Literal["hidden"] = "hidden"

    loss: Literal["mse", "cosine", "squarehead"] = "mse"
    """Summed over pairs of layers. `squarehead`: ‖s − t‖² ÷ (‖t‖² + ε), so that each layer counts alike."""

    learning_rate: Positive = 1e-3
    """The learning rate of the projections (Adam), where widths differ."""


class AttentionTerm(LayerTerm):
    """The attention probabilities of layers; needs a model that computes them (`attn_implementation="eager"`).

    Where student and teacher have other numbers of heads, the means over heads are compared.
    Source: Jiao et al., "TinyBERT" (2020).
    """

    type: Literal["attention"] = "attention"

    loss: Literal["mse", "kl"] = "mse"
    """Summed over pairs of layers; `kl` of each row of probabilities."""
