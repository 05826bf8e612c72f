"""From selectors to parameters: for modifiers that mean whole modules, with biases and norms, not matrices to prune."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from sparsify.anatomy import ROLES, Anatomy
from sparsify.errors import did_you_mean
from sparsify.selectors import matcher

Named = dict[str, nn.Parameter]


def parameters_of(model: nn.Module, anatomy: Anatomy | None, selectors: Iterable[str]) -> tuple[Named, list[str]]:
    """Return the parameters that selectors mean, each once, by name, and what is wrong with a selector.

    A role means the modules that hold its weights, with their biases; a name, glob, `re:` or `type:` means the modules
    that it matches, and everything below them.
    """
    found: dict[int, nn.Parameter] = {}
    problems = []
    for selector in selectors:
        mine = list(_meant(model, anatomy, selector))
        if not mine:
            problems.append(_nothing(model, anatomy, selector))
        found |= {id(parameter): parameter for parameter in mine}
    named = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in found}
    return named, problems


def _meant(model: nn.Module, anatomy: Anatomy | None, selector: str) -> Iterator[nn.Parameter]:
    if selector in ROLES and anatomy is not None:
        for weight in anatomy.role(selector):
            yield from weight.module.parameters(recurse=False)
        return
    hit = matcher(selector)
    for name, module in model.named_modules():
        if name and hit(name, module):
            yield from module.parameters()


def _nothing(model: nn.Module, anatomy: Anatomy | None, selector: str) -> str:
    kind = type(model).__name__
    if selector in ROLES:
        if anatomy is None:
            return f"{selector!r} is a role, but the architecture of {kind} is not known: name modules"
        return f"{kind} has no {selector!r} (it has: {', '.join(anatomy.roles())})"
    names: Sequence[str] = [name for name, _ in model.named_modules() if name]
    return f"{selector!r} matches no module with parameters in {kind}{did_you_mean(selector, [*ROLES, *names], most=0)}"
