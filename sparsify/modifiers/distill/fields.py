"""The fields of `distill`, and what must hold among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import Self

from sparsify.durations import Duration, PositiveDuration
from sparsify.modifiers.contract import Modifier
from sparsify.modifiers.distill.cache import Cache
from sparsify.modifiers.distill.terms import AttentionTerm, HiddenTerm, LogitsTerm, Term
from sparsify.modifiers.span import Span
from sparsify.modifiers.track import Track
from sparsify.schedules import Factor, Window
from sparsify.schedules.window import StepWindow, backwards
from sparsify.spec import fail, fail_at, full_match

SELF = "self"
"""The teacher that is the model itself, as it is before anything is changed."""

NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"


def _binding(value: Any) -> Any:
    if isinstance(value, str) and full_match(NAME, value) is None:
        raise fail(
            f"{value!r} is no name of a binding: the recipe names the teacher (`teacher: teacher`), and "
            "apply(teacher=…) or --teacher says which model it is"
        )
    return value


Name = Annotated[str, Field(pattern=NAME), BeforeValidator(_binding)]
CACHE = "teacher_cache"
"""The binding that names the folder in which a cache is kept."""

DistillTerm = LogitsTerm | HiddenTerm | AttentionTerm


@dataclass(frozen=True)
class NamedTerm:
    """A term, the name that its values have in reports, and where it stands in the recipe."""

    name: str
    path: tuple[str | int, ...]
    term: DistillTerm


class DistillFields(Modifier):
    """What a recipe writes."""

    teacher: Name = "teacher"
    """The binding that holds the teacher: a module, a folder, or the name of a model, given to `apply(teacher=…)` or
    `--teacher`. `self` is the model itself, as it is before anything is changed."""

    logits: LogitsTerm | None = None
    """Distil the outputs."""

    hidden: HiddenTerm | None = None
    """Distil what comes out of layers."""

    attention: AttentionTerm | None = None
    """Distil attention probabilities."""

    terms: Annotated[tuple[Term, ...], Field(strict=False)] = ()
    """More terms, each with its `type`, where one kind occurs twice."""

    hardness: Factor | None = None
    """h: the loss is (1 − h) · task + h · distillation. Left out: task + distillation."""

    begin: Duration = Field(default=Duration(0), json_schema_extra={"default": "0 steps"})
    """When it begins, counted from the beginning of the stage."""

    end: PositiveDuration | None = None
    """When it ends; by default with the stage."""

    cache: Cache | None = None
    """Keep what the teacher says by sample, and ask it once about each; for `logits` alone. `{}` has every default.

    In memory; in the folder of the binding `teacher_cache`, where there is one (`--teacher-cache`).
    """

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if not self.named():
            message = "nothing to distil: write `logits: {}`, `hidden: {}`, `attention: {}`, or a list of `terms`"
            raise fail_at("Distill", (), message, None)
        if self.cache is not None and self.teacher == CACHE:
            raise fail_at("Distill", ("teacher",), f"{CACHE} is the folder of the cache: choose another name", None)
        if self.hardness is not None:
            for key, value in (("from", self.hardness.from_), ("to", self.hardness.to)):
                if value > 1:
                    raise fail_at("Distill", ("hardness", key), f"hardness lies between 0 and 1, got {value:g}", value)
        layered = [each.name for each in self.named() if not isinstance(each.term, LogitsTerm)]
        if self.cache is not None and layered:
            message = f"a cache keeps logits, not what passes through layers ({', '.join(layered)}): leave it out"
            raise fail_at("Distill", ("cache",), message, None)
        for key, message in backwards(self.begin, self.end):
            raise fail_at("Distill", (key,), message, None)
        return self

    def durations(self) -> list[Duration]:
        return [self.begin, *([self.end] if self.end is not None else [])]

    def window(self, span: Span) -> StepWindow:
        """Return when it acts. Raises ClockError."""
        return span.window(Window(begin=self.begin, end=self.end))

    def track(self, span: Span, most: int) -> Track | None:
        return Track(self.window(span), words="distils", lasts=False)

    def named(self) -> list[NamedTerm]:
        """Return all terms, in order, each with a name of its own."""
        found: list[NamedTerm] = []
        places: list[tuple[tuple[str | int, ...], DistillTerm | None]] = [
            (("logits",), self.logits),
            (("hidden",), self.hidden),
            (("attention",), self.attention),
            *((("terms", index), cast(DistillTerm, term)) for index, term in enumerate(self.terms)),
        ]
        for path, term in places:
            if term is not None:
                number = 1 + sum(each.term.type == term.type for each in found)
                found.append(NamedTerm(term.type if number == 1 else f"{term.type}-{number}", path, term))
        return found

    def undrawn(self) -> tuple[tuple[str | int, ...], str] | None:
        """Return which term tokens that a cache has drawn from a vocabulary do not serve, and why; None if they do."""
        found = [each for each in self.named() if isinstance(each.term, LogitsTerm)]
        for each in found:
            term, first = cast(LogitsTerm, each.term), cast(LogitsTerm, found[0].term)
            if term.loss != "kl":
                return (*each.path, "loss"), (
                    "of a vocabulary the cache keeps tokens that were drawn, which serve `kl` alone, not "
                    f"{term.loss}: leave `cache` out, or write `loss: kl`"
                )
            if term.temperature != first.temperature:
                low, high = sorted((term.temperature, first.temperature))
                return (*each.path, "temperature"), (
                    "of a vocabulary the cache keeps tokens that were drawn at one temperature, and the "
                    f"terms have {low:g} and {high:g}: leave `cache` out, or make them one"
                )
        return None
