"""What every value in a recipe is made of: `Spec`, and `Family`, specs chosen by their `type`.

A spec is a frozen pydantic model that refuses unknown keys. A family (criterion, pattern, scope, curve,
modifier) is a set of specs with one root; a field annotated with the root accepts any member, built in
or from a plug-in, written as `{type: name, …}` or, where no field is needed, as the bare name.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import pkgutil
import re
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, ValidationError, core_schema
from typing_extensions import Self

from sparsify import escaping
from sparsify.errors import LONGEST_MESSAGE, SparsifyError, did_you_mean

PLUGINS = "sparsify.plugins"
FAMILY_KEY = "x-family"
MOST_LISTED = 16
"""Members of a family that an error lists when none is near."""


def fail(message: str) -> PydanticCustomError:
    """Return an error for pydantic whose text is `message`, braces and all; bounded, and fit for a terminal."""
    return PydanticCustomError("sparsify", "{text}", {"text": escaping.visible(escaping.cut(message, LONGEST_MESSAGE))})


def fail_at(title: str, loc: tuple[str | int, ...], message: str, value: Any) -> ValidationError:
    """Return a validation error placed at `loc` below the value being validated."""
    return ValidationError.from_exception_data(title, [{"type": fail(message), "loc": loc, "input": value}])


def _integral(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


integral = BeforeValidator(_integral)
"""Put it last in `Annotated[int, Field(…), integral]`: 2.0 is taken for 2, as JSON Schema does."""


class Spec(BaseModel):
    """A frozen value with known keys. Two specs with equal fields are equal and hash alike."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def keys(cls) -> list[str]:
        """The keys that a recipe may write for this spec."""
        return [field.alias or name for name, field in cls.model_fields.items()]

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_nearest_key(cls, data: Any, handler: Any) -> Self:
        """Turn pydantic's "extra inputs" into "unknown key … (did you mean …?)", while the keys are known."""
        try:
            return handler(data)  # type: ignore[no-any-return]
        except ValidationError as error:
            details = [_with_choices(line, cls.keys()) for line in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, details) from None


def _with_choices(line: Any, keys: list[str]) -> InitErrorDetails:
    kind: Any = line["type"]
    if kind == "extra_forbidden" and len(line["loc"]) == 1:
        key = str(line["loc"][0])
        kind = fail(f"unknown key {key!r}{did_you_mean(key, keys)}")
    elif kind == "sparsify":
        kind = fail(line["ctx"]["text"])
    return {"type": kind, "loc": line["loc"], "input": line["input"], "ctx": line.get("ctx", {})}


class Family(Spec):
    """The base of sets of specs told apart by `type`. A subclass that sets `family` is the root of one.

    Class variables: `family` is the word used in messages (on the root only); `text_pattern`, on a member, is a regular
    expression for a shorthand beside the bare type (N:M patterns are written `2:4`); `examples`, on a member
    that needs fields, are fields to try it with: the tests combine them with everything else.
    """

    family: ClassVar[str]
    text_pattern: ClassVar[str | None] = None
    examples: ClassVar[tuple[dict[str, Any], ...]] = ()
    _members: ClassVar[dict[str, builtins.type[Any]]]

    type: str

    @classmethod
    def _is_root(cls) -> bool:
        return "family" in vars(cls)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls._is_root():
            cls._members = {}
            return
        tag = _tag(cls)
        if tag is None:
            return  # an abstract helper between the root and its members
        known = cls._members.get(tag)
        if known is not None and _origin(known) != _origin(cls):
            raise SparsifyError(
                f"two {cls.family} types are called {tag!r}: {_origin(known)} and {_origin(cls)}; rename the second"
            )
        if not _ours(cls):
            _build(cls)
        cls._members[tag] = cls

    @classmethod
    def members(cls) -> dict[str, builtins.type[Self]]:
        """All members by type: ours and those of installed plug-ins, sorted by name."""
        load_plugins()
        return dict(sorted(cls._members.items()))

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any] | None:
        """Return the fields that the shorthand `text` stands for, or None where it is not ours."""
        return {"type": text} if cls.model_fields["type"].default == text else None

    @classmethod
    def needs_no_field(cls) -> bool:
        """Whether the bare type is enough: every other field has a default."""
        return not any(field.is_required() for field in cls.model_fields.values())

    @classmethod
    def samples(cls) -> list[Self]:
        """Return an instance of every member that needs no field, and one of every example."""
        members = cls.members().values()
        plain = [member.parse({"type": tag}) for tag, member in cls.members().items() if member.needs_no_field()]
        return plain + [
            member.model_validate(fields, by_alias=True) for member in members for fields in member.examples
        ]

    def label(self) -> str:
        """Return a few words for people: the type, and the fields that are not at their default."""
        fields = self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"type"})
        return " ".join([self.type, *(str(value) for value in fields.values())])

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Return the member that `value` (an instance, a mapping with `type`, or a shorthand) describes."""
        if isinstance(value, cls):
            return value
        members = cls.members()
        if isinstance(value, str):
            for member in members.values():
                fields = member.from_text(value)
                if fields is not None:
                    return member.model_validate(fields, by_alias=True, by_name=False)
            raise fail(cls._unknown(value))
        if not isinstance(value, dict):
            raise fail(f"expected a {cls.family}: a name, or a mapping with `type`")
        tag = value.get("type")
        if tag is None:
            raise fail_at(cls.family, (), f"missing key 'type' (one of: {', '.join(members)})", value)
        if not isinstance(tag, str) or tag not in members:
            raise fail_at(cls.family, ("type",), cls._unknown(tag), tag)
        return members[tag].model_validate(value, by_alias=True, by_name=False)

    @classmethod
    def _unknown(cls, tag: object) -> str:
        """Return the sentence for a word that no member has: what is near, or of which family it is."""
        others = (root for root in Family.__subclasses__() if root._is_root() and root._members is not cls._members)
        owner = next((root.family for root in others if tag in root._members), None) if isinstance(tag, str) else None
        if owner is not None:
            known = ", ".join(cls.members())
            return f"unknown {cls.family} {tag!r}: that is a {owner}; there are {known}"
        return f"unknown {cls.family} {tag!r}{did_you_mean(str(tag), cls.members(), most=MOST_LISTED)}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not cls._is_root():
            return handler(source)
        return core_schema.no_info_plain_validator_function(cls.parse)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # a placeholder: recipe/schema.py writes the members, which plug-ins may extend
        return {FAMILY_KEY: cls} if cls._is_root() else handler(schema)


TYPE = re.compile("[a-z][a-z0-9]*([-_:.][a-z0-9]+)*")
"""What a member's `type` may be."""


def _origin(member: type[Any]) -> str:
    return f"{member.__module__}.{member.__qualname__}"


def _ours(member: type[Any]) -> bool:
    return member.__module__.partition(".")[0] == __name__.partition(".")[0]


def _tag(member: type[Family]) -> str | None:
    """Return the `type` of a member, None of a class that has none. Raises SparsifyError, naming the class."""
    who, field = _origin(member), member.model_fields["type"]
    if not member.__pydantic_complete__:
        raise SparsifyError(
            f"{who}: the annotation of a field cannot be resolved; what it names, such as Literal, must be imported at "
            "the top of the module"
        )
    tags, default = get_args(field.annotation), field.default
    if not tags and isinstance(default, str):
        raise SparsifyError(f"{who}: write `type: Literal[{default!r}] = {default!r}`, so that the type is one word")
    if not tags:
        return None
    if len(tags) > 1 or not isinstance(tags[0], str):
        raise SparsifyError(f"{who}: a {member.family} has one type, a word, and this has {', '.join(map(repr, tags))}")
    if default != tags[0]:
        raise SparsifyError(f"{who}: `type` must have its word as default: `type: Literal[{tags[0]!r}] = {tags[0]!r}`")
    if not TYPE.fullmatch(tags[0]):
        right = "small letters a-z and digits, joined by - _ : or ."
        raise SparsifyError(f"{who}: the type {tags[0]!r} must be {right}")
    return tags[0]


def _build(member: type[Family]) -> None:
    """Raise SparsifyError, naming the class, unless a plug-in's member can be described, and built where it is bare."""
    try:
        member.model_json_schema()
        if member.needs_no_field():
            member.model_validate({"type": member.model_fields["type"].default}, by_alias=True)
    except Exception as error:
        text = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise SparsifyError(f"{_origin(member)}: its fields cannot be used: {text}") from error


def gist(value: Spec) -> str:
    """Return what a value is, in the words of its class: the first paragraph of the docstring, on one line."""
    text = inspect.getdoc(type(value)) or ""
    return " ".join(text.partition("\n\n")[0].partition("Source:")[0].split())


def discover(package: str) -> None:
    """Import every module of `package`, in sorted order; a module that fails to import is an error."""
    path = importlib.import_module(package).__path__
    for module in sorted(info.name for info in pkgutil.iter_modules(path)):
        importlib.import_module(f"{package}.{module}")


@cache
def load_plugins() -> None:
    """Load the modules that installed distributions declare under `sparsify.plugins`, once a process."""
    for entry in plugins():
        load_plugin(entry)


def plugins() -> list[EntryPoint]:
    """Return the plug-ins that installed distributions declare, by name; none is loaded."""
    return sorted(entry_points(group=PLUGINS), key=lambda entry: entry.name)


def load_plugin(entry: EntryPoint) -> None:
    """Import the module of a plug-in. Raises SparsifyError if that fails."""
    try:
        entry.load()
    except Exception as error:
        owner = entry.dist.name if entry.dist else "an unknown distribution"
        text = str(error) if isinstance(error, SparsifyError) else repr(error)
        raise SparsifyError(f"the plug-in {entry.name!r} of {owner} does not load: {text}") from error


def full_match(pattern: str, text: str) -> re.Match[str] | None:
    """Match an anchored JSON-Schema pattern as Python does, without `$` accepting a final newline."""
    return re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text)
