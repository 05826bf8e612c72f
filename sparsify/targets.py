"""Selectors: which parameters a modifier means.

A selector is a glob over module names (`encoder.layer.*.query`; `*` crosses dots), `re:` and a regular
expression that must match the whole name, or `type:` and a class name. A matched module stands for every
prunable weight in it; the name of a parameter (`….weight`) is understood too.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from torch import nn

from sparsify.errors import did_you_mean
from sparsify.layers import Weight, all_weights
from sparsify.spec import fail

LONGEST = 200
MOST_REPEATS = 5


def _check(selector: str) -> str:
    """Refuse regular expressions that are broken or could take for ever on a module's name."""
    if not selector.startswith("re:"):
        return selector
    pattern = selector[3:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python warns of sets that will mean something else one day
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise fail(f"{pattern!r} is not a regular expression: {error}") from None
    bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]])*\]", "_", pattern)  # without escapes and character sets
    if re.search(r"\\[1-9]|\(\?[^:]", pattern) or _repeats_a_choice(bare):
        raise fail(f"{pattern!r} may take for ever: no repeated groups that repeat or choose, no look-around")
    if len(re.findall(r"[*+]|\{[0-9]*,", bare)) > MOST_REPEATS:
        raise fail(f"{pattern!r} has more than {MOST_REPEATS} repetitions")
    return selector


def _repeats_a_choice(pattern: str) -> bool:
    """Whether a group that itself repeats or chooses is repeated: the seed of endless backtracking."""
    opened: list[int] = []
    for place, character in enumerate(pattern):
        if character == "(":
            opened.append(place)
        elif character == ")":
            group = pattern[opened.pop() + 1 : place].removeprefix("?:")
            if pattern[place + 1 : place + 2] in ("*", "+", "{") and re.search(r"[*+?{|]", group):
                return True
    return False


Selector = Annotated[str, Field(min_length=1, max_length=LONGEST), AfterValidator(_check)]

_SELECTOR: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": LONGEST}

Selectors = Annotated[
    tuple[Selector, ...],
    Field(strict=False, min_length=1),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [_SELECTOR, {"type": "array", "minItems": 1, "items": _SELECTOR}]}),
]
"""One selector, or a list of them."""


def matcher(selector: str) -> Callable[[str, nn.Module], bool]:
    """Return whether (name, module) is meant by `selector`; `name` may also be that of a parameter."""
    if selector.startswith("re:"):
        pattern = re.compile(selector[3:])
        return lambda name, module: pattern.fullmatch(name) is not None
    if selector.startswith("type:"):
        kind = selector[5:].strip()
        return lambda name, module: any(cls.__name__ == kind for cls in type(module).__mro__)
    return lambda name, module: fnmatchcase(name, selector)


def select_weights(
    model: nn.Module, targets: Iterable[str], exclude: Iterable[str]
) -> tuple[list[Weight], list[tuple[str, int, str]]]:
    """Return the weights that are targeted and not excluded, in the model's order, and what went wrong.

    A problem is (`targets` or `exclude`, index of the selector, sentence).
    """
    known = all_weights(model)
    problems: list[tuple[str, int, str]] = []
    chosen: dict[str, set[str]] = {"targets": set(), "exclude": set()}
    for key, selectors in (("targets", targets), ("exclude", exclude)):
        for index, selector in enumerate(selectors):
            names = _matches(model, selector, known)
            if not names:
                problems.append((key, index, _nothing(model, selector, known)))
            chosen[key] |= names
    wanted = chosen["targets"] - chosen["exclude"]
    if chosen["targets"] and not wanted:
        problems.append(("exclude", 0, "everything that is targeted is excluded"))
    return [weight for weight in known if weight.name in wanted], problems


def _matches(model: nn.Module, selector: str, known: list[Weight]) -> set[str]:
    """Return the names of the weights that a selector means, tied ones under their first name."""
    hit = matcher(selector)
    roots = {name for name, module in model.named_modules() if hit(name, module)}
    first = {id(weight.parameter): weight.name for weight in known}
    named = dict(model.named_parameters(remove_duplicate=False))
    found: set[str] = set()
    for name, parameter in named.items():
        if id(parameter) not in first:
            continue
        owner = name.rpartition(".")[0]
        if hit(name, model.get_submodule(owner)) and not selector.startswith("type:"):
            found.add(first[id(parameter)])
        parts = owner.split(".") if owner else []
        if any(".".join(parts[:depth]) in roots for depth in range(len(parts) + 1)):
            found.add(first[id(parameter)])
    return found


def _nothing(model: nn.Module, selector: str, known: list[Weight]) -> str:
    """Say why a selector found no weight, with the nearest that would."""
    modules = dict(model.named_modules())
    hit = matcher(selector)
    kinds = sorted({type(module).__name__ for name, module in modules.items() if hit(name, module)})
    if kinds:
        return f"{selector!r} matches only modules without a prunable weight ({', '.join(kinds[:5])})"
    types = {type(weight.module).__name__ for weight in known}
    if selector in types:
        return f"{selector!r} matches no module (did you mean 'type:{selector}'?)"
    return f"{selector!r} matches nothing in {type(model).__name__}{_nearest(selector, types, known)}"


def _nearest(selector: str, types: Iterable[str], known: Iterable[Weight]) -> str:
    """Suggest a type, or the part of a dotted name that no module has."""
    if selector.startswith("type:"):
        return did_you_mean(selector[5:].strip(), types).replace("mean '", "mean 'type:")
    names = {weight.name.rpartition(".")[0] for weight in known}
    if selector.startswith("re:"):
        return did_you_mean(selector[3:], names, most=6)
    parts = {part for name in names for part in name.split(".")}
    for part in selector.split("."):
        if part not in parts and not any(sign in part for sign in "*?["):
            near = did_you_mean(part, parts, most=0)
            if near:
                return f": no name has the part {part!r}{near}"
    return did_you_mean(selector, names, most=6)
