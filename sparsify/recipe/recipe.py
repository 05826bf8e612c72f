"""The recipe: frozen, validated data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path as File
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError, model_validator
from typing_extensions import Self

from sparsify.durations import Duration, PositiveDuration, longer
from sparsify.errors import Problem, RecipeError
from sparsify.modifiers import Modifier
from sparsify.recipe import document
from sparsify.recipe.about import About
from sparsify.recipe.migrate import CURRENT
from sparsify.recipe.nodes import Table, locate, plain, show
from sparsify.recipe.problems import in_order, problems_of
from sparsify.recipe.variables import RESERVED, Binding, Name, Variable, check_overrides
from sparsify.recipe.writer import write
from sparsify.spec import Spec, fail, fail_at

ONLY_STAGE = "main"
"""The name of the stage that top-level `modifiers` make."""


class Stage(Spec):
    """A named part of the training with its own clock: windows and percentages are relative to it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    """What state, plans and reports call it; unique in the recipe."""

    length: PositiveDuration | None = None
    """How long it lasts. One stage may leave it out and takes the rest."""

    modifiers: Annotated[tuple[Modifier, ...], Field(strict=False)] = ()
    """What happens in it, in this order."""

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        for index, modifier in enumerate(self.modifiers if self.length is not None else ()):
            for path, when in _moments(modifier):
                if self.length is not None and longer(when, self.length):
                    message = f"{when} lies beyond the stage, which lasts {self.length}"
                    raise fail_at("Stage", ("modifiers", index, *path), message, None)
        return self

    def names(self) -> list[str]:
        """Return a unique name for every modifier: its own, or its type, numbered where that is taken."""
        return _unique([modifier.name or modifier.type for modifier in self.modifiers])

    def keyed(self) -> list[tuple[str, Modifier]]:
        """Return every modifier with what state, plans and reports call it: `stage/name`, or its name where the
        recipe names no stage.
        """
        keys = [name if self.name == ONLY_STAGE else f"{self.name}/{name}" for name in self.names()]
        return list(zip(keys, self.modifiers, strict=True))


def _moments(modifier: Modifier) -> Iterator[tuple[tuple[str, ...], Duration]]:
    """Yield the moments of its stage that a modifier names (path below it, duration); percentages fit any stage."""
    for name in ("begin", "end"):
        for above in ((), ("window",), ("penalty",)):
            owner = getattr(modifier, above[0], None) if above else modifier
            when = getattr(owner, name, None)
            if isinstance(when, Duration) and when.unit != "%":
                yield (*above, name), when


def _unique(names: list[str]) -> list[str]:
    """Number what is there twice, leaving out numbers that would make a name which is written somewhere."""
    written, seen = set(names), dict[str, int]()
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        while seen[name] > 1 and f"{name}-{seen[name]}" in written:
            seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return unique


def _version(value: Any) -> Any:
    if isinstance(value, bool) or value != CURRENT:
        raise fail(f"expected {CURRENT}, got {value!r}")
    return CURRENT


class Recipe(Spec):
    """What is to be done to a model, as data. Load it, look at it, resolve it, give it to a `Manager`."""

    version: Annotated[Literal[1], BeforeValidator(_version)]
    """The version of the recipe language."""

    name: str = ""
    """A short name."""

    summary: str = ""
    """One sentence for people."""

    about: About | None = None
    """Authors, task, licence, measured results."""

    extends: str | None = None
    """A recipe to build on: a name, or a path below the folder of this file."""

    variables: dict[Name, Variable] = {}
    """Values that `${name}` stands for in modifiers and stages."""

    bindings: dict[Name, Binding] = {}
    """Objects that `apply` must be given, such as a teacher."""

    modifiers: Annotated[tuple[Modifier, ...], Field(strict=False, min_length=1)] = ()
    """A recipe of one stage: its modifiers."""

    stages: Annotated[tuple[Stage, ...], Field(strict=False, min_length=1)] = ()
    """A recipe of several stages, in order."""

    _source: Table | None = PrivateAttr(None)
    _origin: Table | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _has_one_body(self) -> Self:
        if not self.modifiers and not self.stages:
            raise fail_at("Recipe", (), "missing key 'modifiers' (or 'stages')", None)
        if self.modifiers and self.stages:
            raise fail_at("Recipe", ("stages",), "either `modifiers` or `stages`, not both", None)
        return self

    @model_validator(mode="after")
    def _stages_are_distinct(self) -> Self:
        stages, seen = self.stages, set[str]()
        for index, stage in enumerate(stages):
            if stage.name in seen:
                raise fail_at("Recipe", ("stages", index, "name"), f"two stages are called {stage.name!r}", stage.name)
            seen.add(stage.name)
        open_ended = [index for index, stage in enumerate(stages) if stage.length is None]
        if len(open_ended) > 1:
            message = "only one stage may leave out its length"
            raise fail_at("Recipe", ("stages", open_ended[1]), message, None)
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        used = 0.0
        for index, stage in enumerate(self.stages):
            if stage.length is None or stage.length.unit != "%":
                continue
            used = round(used + stage.length.amount, 9)
            if used > 100:
                message = f"with this one the stages take {used:g}% of the training"
                raise fail_at("Recipe", ("stages", index, "length"), message, None)
        rest = [index for index, stage in enumerate(self.stages) if stage.length is None]
        if used == 100 and rest:
            message = "the other stages take 100% of the training: nothing is left for this one"
            raise fail_at("Recipe", ("stages", rest[0]), message, None)
        return self

    @model_validator(mode="after")
    def _bindings_are_free(self) -> Self:
        for name in self.bindings:
            if name in RESERVED:
                message = f"{name!r} is an argument of `apply` itself; choose another name, such as 'my_{name}'"
                raise fail_at("Recipe", ("bindings", name), message, None)
        return self

    @classmethod
    def load(cls, path_or_name: str | File, /, **variables: Any) -> Recipe:
        """Read a recipe by path, or by name along the search path, with values for its variables.

        Raises RecipeError, which lists every problem as `file:line:column: path: message`.

        Examples:
            >>> Recipe.load("gmp", sparsity=0.9).variables["sparsity"].value
            0.9
        """
        return cls._from_tree(document.load(path_or_name), variables)

    @classmethod
    def parse(cls, text: str, name: str = "<recipe>", /, **variables: Any) -> Recipe:
        """Read a recipe from YAML text; `name` stands for the file in messages. Raises RecipeError.

        Examples:
            >>> recipe = Recipe.parse("{version: 1, modifiers: [{type: prune, targets: '*', sparsity: 0.5}]}")
            >>> Recipe.parse("{version: 1, modifiers: [{type: prune, targts: '*', sparsity: 80}]}", "r.yml")
            Traceback (most recent call last):
            sparsify.errors.RecipeError: r.yml:1:40: modifiers[0].targts: unknown key 'targts' (did you mean 'targets'?)
            r.yml:1:53: modifiers[0].sparsity: a sparsity is a fraction from 0 to 1, got 80 (did you mean 0.8?)
        """
        return cls._from_tree(document.parse(text, name), variables)

    @classmethod
    def _from_tree(cls, root: Table, variables: dict[str, Any]) -> Recipe:
        filled = document.fill(root, variables)
        problems = list(filled.problems)
        recipe = None
        try:
            recipe = cls.model_validate(plain(filled.root), by_alias=True, by_name=False)
        except ValidationError as error:
            problems += problems_of(error, filled.root, filled.hidden)
        if recipe is None or problems:
            raise RecipeError(in_order(problems))
        recipe._source, recipe._origin = filled.source, filled.root
        return recipe

    def source(self) -> dict[str, Any]:
        """Return the recipe as plain data with its expressions and variables, as `dump` writes it."""
        if self._source is not None:
            data: dict[str, Any] = plain(self._source)
            return data
        data = self.model_dump(mode="json", exclude_none=True, by_alias=True)
        return {key: value for key, value in data.items() if value not in ("", {}, [])}

    def dump(self) -> str:
        """Return the recipe as YAML text; `Recipe.parse` of it is equal to this recipe.

        Examples:
            >>> recipe = Recipe.load("gmp")
            >>> Recipe.parse(recipe.dump()) == recipe
            True
        """
        return write(self.source())

    def resolve(self, /, **variables: Any) -> Recipe:
        """Return the recipe with nothing left open: variables filled in, every default written out.

        Raises RecipeError for unknown variables and values out of bounds.

        Examples:
            >>> recipe = Recipe.load("gmp").resolve(sparsity=0.7)
            >>> recipe.stages[0].modifiers[0].sparsity.to
            0.7
            >>> recipe.variables
            {}
        """
        recipe = self
        if self._source is not None and variables:
            recipe = self._from_tree(self._source, variables)
        elif wrong := check_overrides(self.variables, variables):
            raise RecipeError([Problem(text) for text in wrong])
        closed = recipe.model_copy(update={"variables": {}, "modifiers": (), "stages": recipe.staged()})
        closed._source = None  # but `_origin` stays: problems found later still have a place
        return closed

    def staged(self) -> tuple[Stage, ...]:
        """Return the stages; top-level `modifiers` are one stage called `main`."""
        return self.stages or (Stage(name=ONLY_STAGE, modifiers=self.modifiers),)

    def keyed(self) -> Iterator[tuple[str, Modifier]]:
        """Yield every modifier with its key (see `Stage.keyed`), in order.

        Examples:
            >>> [key for key, _ in Recipe.load("compound-6").keyed()]
            ['shrink/layer_drop', 'shrink/distill', 'shrink/prune', 'settle/distill', 'settle/prune']
        """
        for stage in self.staged():
            yield from stage.keyed()

    def needs(self) -> dict[str, Binding]:
        """Return the objects that `apply` takes by name: those that the recipe declares, and those of its modifiers.

        Examples:
            >>> list(Recipe.load("compound-6").needs())
            ['teacher']
        """
        needed = {
            name: Binding(description=needed.description, required=needed.required)
            for _, modifier in self.keyed()
            for name, needed in modifier.bindings().items()
        }
        return {**needed, **self.bindings}

    def canonical(self) -> str:
        """Return what the recipe *does* as canonical JSON: stages with every default written out.

        Names, descriptions, results and bindings change nothing and are left out.
        """
        stages = [_canonical(stage) for stage in self.staged()]
        return json.dumps({"version": self.version, "stages": stages}, sort_keys=True, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        """The hash of `canonical()`, in hexadecimal.

        Examples:
            >>> one = Recipe.parse("{version: 1, modifiers: [{type: prune, sparsity: 0.5}]}")
            >>> two = Recipe.parse("{version: 1, name: two, modifiers: [{type: prune, sparsity: {to: 0.5}}]}")
            >>> one.sha256 == two.sha256
            True
        """
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def problem(self, message: str, *path: str | int) -> Problem:
        """Return a problem at `path`, given in terms of stages, as the file that the recipe came from has it."""
        if self._origin is None:
            return Problem(message, show(path))
        if "stages" not in self._origin.entries and path[:2] == ("stages", 0):
            path = path[2:]
        return Problem(message, show(path), locate(self._origin, path)[1])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.source() == other.source()

    __hash__ = None  # type: ignore[assignment]


def _canonical(stage: Stage) -> dict[str, Any]:
    modifiers = [
        {**modifier.model_dump(mode="json", by_alias=True, exclude_none=True), "name": name}
        for modifier, name in zip(stage.modifiers, stage.names(), strict=True)
    ]
    length = str(stage.length) if isinstance(stage.length, Duration) else None
    return {"name": stage.name, "length": length, "modifiers": modifiers}
