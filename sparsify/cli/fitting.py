"""From advice to a recipe that plans on one model: which weights, what is left out, how often."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparsify.anatomy import Anatomy, read
from sparsify.errors import PlanError, SparsifyError
from sparsify.layers import Weight, aliases, all_weights
from sparsify.modifiers.prune import Prune
from sparsify.plan import Plan
from sparsify.plan.places import pattern
from sparsify.recipe import Recipe
from sparsify.recipe.advice import Advice, Fit, Timing, compose
from sparsify.targets import Targets

ROUTERS = ("router", "gate")
"""What chooses among experts is called so; it is small, and whole experts go by it."""


@dataclass(frozen=True)
class Fitter:
    """Writes recipes for one model and one length of training."""

    name: str
    model: nn.Module
    steps: int
    sparsity: float | None

    def first(self, advices: Sequence[Advice]) -> tuple[str, Advice]:
        """Return the first recipe that plans on the model, and its advice.

        Raises PlanError, with the reasons against the best one, where none does.
        """
        reasons: list[SparsifyError] = []
        for advice in advices:
            for fits in self._fits(advice):
                try:
                    return self._tried(advice, fits), advice
                except SparsifyError as error:
                    reasons.append(error)
        raise PlanError(f"no such recipe fits {self.name}: {reasons[0]}")

    def _tried(self, advice: Advice, fits: Sequence[Fit]) -> str:
        timing = Timing.of(self.steps)
        text = compose(advice, model=self.name, sparsity=self.sparsity, timing=timing, fits=fits)
        Plan.of(Recipe.parse(text, f"{advice.name}.yaml"), self.model, total_steps=self.steps)
        return text

    def _fits(self, advice: Advice) -> Iterator[list[Fit]]:
        """Yield what to write for the `prune`s: by role, by role without what misfits, by name."""
        plain = [Fit()] * len(advice.prunes)
        yield plain
        anatomy = read(self.model)
        named = tuple(in_layers(self.model))
        text = compose(advice, model=self.name, sparsity=None, timing=Timing.of(self.steps))
        prunes: list[Any] = [modifier for _, modifier in Recipe.parse(text).resolve().keyed()]
        for by_name in (False, True):
            if by_name and not (named and all(prune.targets == "default" for prune in advice.prunes)):
                continue
            start = Fit(named if by_name else None)
            fits = [self._without(start, prune, anatomy) for prune in prunes]
            if fits != plain:
                yield fits

    def _without(self, fit: Fit, prune: Prune, anatomy: Anatomy | None) -> Fit:
        """Return a fit that leaves out what the pattern does not fit on, and routers."""
        finder = Targets(self.model, anatomy, prune.pattern.role)
        weights = finder.select(fit.targets or prune.targets)
        routers = {weight.name for weight in weights if fit.targets and is_router(self.model, weight)}
        out = [weight for weight in weights if weight.name in routers or prune.pattern.problem(weight)]
        kept = [weight for weight in weights if weight not in out]
        return Fit(fit.targets, tuple(selectors(out, kept)))


def in_layers(model: nn.Module) -> list[str]:
    """Return selectors for what lies in repeated blocks; without blocks, for all but tables and what is tied to one.

    A block is a module in a list of several whose classes hold weights in modules of their own.
    """
    tied = aliases(model)
    known = [weight for weight in all_weights(model) if id(weight.parameter) not in tied]
    containers = [name for name, module in model.named_modules() if _repeats(module)]
    outer = [name for name in containers if not any(name.startswith(f"{other}.") for other in containers if other)]
    found = list(dict.fromkeys(f"re:{_regex(name)}[.][0-9]+[.].+" if name else "re:[0-9]+[.].+" for name in outer))
    return found or selectors(known[:-1] or known, known[-1:] if len(known) > 1 else [])


def _repeats(module: nn.Module) -> bool:
    """Whether a module is a list of blocks: several of one class, which hold modules with weights."""
    if not isinstance(module, (nn.ModuleList, nn.Sequential)):
        return False
    blocks = [type(child) for child in module if any(all_weights(part) for part in child.children())]
    return any(blocks.count(kind) > 1 for kind in blocks)


def is_router(model: nn.Module, weight: Weight) -> bool:
    """Whether a weight chooses among experts."""
    parts = weight.parameter_name.split(".")[:-1]
    if "router" in parts:
        return True
    beside = model.get_submodule(".".join(parts[:-1])) if len(parts) > 1 else model
    return bool(parts) and parts[-1] in ROUTERS and any("expert" in name for name, _ in beside.named_children())


def selectors(wanted: Iterable[Weight], others: Iterable[Weight]) -> list[str]:
    """Return selectors that mean the wanted weights and none of the others: alike ones together where that is so."""
    spared = {weight.parameter_name for weight in others}
    found: dict[str, None] = {}
    for weight in wanted:
        owner = weight.parameter_name.rpartition(".")[0] or weight.parameter_name
        alike = f"re:{_regex(pattern(owner))}"
        clashes = any(re.fullmatch(alike[3:], name.rpartition(".")[0] or name) for name in spared)
        found[owner if clashes else alike] = None
    return list(found)


def _regex(name: str) -> str:
    """Return a regular expression for a name; numbers are any where it has a `*`."""
    return re.sub(r"[^\w*]", lambda sign: f"[{sign[0]}]", pattern(name)).replace("*", "[0-9]+")
