"""From selectors to weights: what a modifier means in a model.

A matched module stands for every prunable weight in it, except tables of embeddings, routers of experts and adapters
(LoRA's matrices beside a layer), which are meant only where a selector names them; the name of a parameter (`….weight`)
is understood too, also that of a matrix which belongs to no known layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from sparsify.anatomy import ROLES, Anatomy, routers
from sparsify.anatomy.parts import DEFAULT, Layer
from sparsify.anatomy.unlayered import nothing
from sparsify.errors import did_you_mean
from sparsify.layers import TABLES, Weight, adapters, all_weights, raw, shared_rows, unprunable
from sparsify.selectors import layer_indices, matcher, names_a_parameter, names_itself


@dataclass(frozen=True)
class TargetProblem:
    """What is wrong, and with what: `targets`, `exclude` or `layers`, and which entry."""

    key: str
    index: int | None
    message: str


class Targets:
    """Selects weights in one model. Problems are collected in `problems`."""

    def __init__(self, model: nn.Module, anatomy: Anatomy | None = None, role: str = DEFAULT) -> None:
        self.model, self.anatomy, self.role = model, anatomy, role
        self.tables = {id(module.weight) for module in model.modules() if isinstance(module, TABLES)}
        """Tables of embeddings, also those that are an output layer's weight."""
        self.routers = {id(weight.parameter) for weight in routers(model)}
        self.adapters = adapters(model)
        """The modules of adapters by the ids of their parameters."""
        self.atoms: dict[str, list[Weight]] = {}
        """The parts of each known weight (by its name) that may be meant by themselves; at least itself."""
        self._of: dict[int, list[Weight]] = {}
        """The known weights in each parameter, by its id."""
        self.know(all_weights(model, embeddings=True))
        for weight in anatomy.role(DEFAULT) if anatomy else ():
            if weight.span is not None:
                self._cut(weight)
        self.problems: list[TargetProblem] = []

    def know(self, weights: Sequence[Weight]) -> None:
        """Take these weights as all that there are."""
        self.known = list(weights)
        self._of = {}
        for weight in weights:
            self._of.setdefault(id(weight.parameter), []).append(weight)
            self.atoms.setdefault(weight.name, [weight])

    def _cut(self, part: Weight) -> None:
        """Note that a part of a known weight may be meant by itself."""
        for known in self._of.get(id(part.parameter), ()):
            if known.name != part.name and shared_rows(part, [known]):
                self.atoms[known.name] = [*(atom for atom in self.atoms[known.name] if atom is not known), part]

    def select(
        self, targets: Iterable[str] | None, exclude: Iterable[str] = (), layers: Sequence[str] | None = None
    ) -> list[Weight]:
        """Return the weights that are targeted and not excluded, in the model's order.

        Several matrices in one parameter (query, key and value) are one weight if all are meant, else those
        that are; each expert is a weight of its own. Without `targets`, `default` is meant.
        """
        self._adopt(targets or ())
        chosen = self._union("targets", [DEFAULT] if targets is None else targets)
        wanted = chosen - self._union("exclude", exclude)
        if chosen and not wanted:
            self.problems.append(TargetProblem("exclude", 0, "everything that is targeted is excluded"))
        if layers is not None:
            inside = self._layers(layers)
            if inside and wanted and not wanted & inside:
                self.problems.append(TargetProblem("layers", None, "nothing that is targeted lies in these layers"))
            wanted &= inside
        found = []
        for weight in self.known:
            atoms = self.atoms[weight.name]
            mine = [atom for atom in atoms if atom.name in wanted]
            found += [weight] if len(mine) == len(atoms) else mine
        return found

    def _union(self, key: str, selectors: Iterable[str]) -> set[str]:
        union: set[str] = set()
        for index, selector in enumerate(selectors):
            names, reason = self._means(selector)
            if not names:
                self.problems.append(TargetProblem(key, index, reason()))
            union |= names
        return union

    def _means(self, selector: str) -> tuple[set[str], Callable[[], str]]:
        """Return the names of the atoms that a selector means, and why it means nothing."""
        if selector not in ROLES:
            return self._matches(selector), lambda: self._nothing(selector)
        role = self.role if selector == DEFAULT else selector
        found = self._names(self.anatomy.role(role)) if self.anatomy is not None else set()
        layered = self.anatomy is not None and bool(self.anatomy.layers)
        return (found if layered else self._matches(selector) or found), lambda: self._no_role(role)

    def _names(self, weights: Iterable[Weight]) -> set[str]:
        return {
            atom.name
            for weight in weights
            for known in self._of[id(weight.parameter)]
            for atom in self.atoms[known.name]
            if weight.span is None or shared_rows(atom, [weight])
        }

    def _matches(self, selector: str) -> set[str]:
        """Return the names of the atoms that a glob, `re:` or `type:` means."""
        hit = matcher(selector)
        roots = {name for name, module in self.model.named_modules() if hit(name, module)}
        found: list[Weight] = []
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            if id(parameter) not in self._of:
                continue
            owner = name.rpartition(".")[0]
            module = self.model.get_submodule(owner)
            kind = selector.startswith("type:")
            itself = owner in roots or (not kind and hit(name, module))
            if id(parameter) in self.tables:
                meant = itself and names_itself(selector) and (isinstance(module, TABLES) or not kind)
            elif id(parameter) in self.adapters:
                meant = _names_adapter(hit, name, module, self.adapters[id(parameter)])
            elif id(parameter) in self.routers:
                meant = itself and names_itself(selector) and (not kind or _of_its_own(selector, module))
            else:
                parts = owner.split(".") if owner else []
                meant = itself or any(".".join(parts[:depth]) in roots for depth in range(len(parts)))
            if meant:
                found += self._of[id(parameter)]
        return self._names(found)

    def _adopt(self, targets: Iterable[str]) -> None:
        """Take matrices that belong to no known layer for weights where a selector ends in their very name."""
        hits = [matcher(selector) for selector in targets if names_a_parameter(selector)]
        every = list(self.model.named_parameters()) if hits else []
        strange = [name for name, p in every if id(p) not in self._of and any(hit(name, self.model) for hit in hits)]
        found = [raw(owner, self.model.get_submodule(owner), own) for owner, own in map(_split, strange)]
        if new := [weight for weight in found if weight is not None]:
            order = {name: place for place, (name, _) in enumerate(every)}
            self.know(sorted([*self.known, *new], key=lambda weight: order.get(weight.parameter_name, 0)))

    def _layers(self, layers: Sequence[str]) -> set[str]:
        """Return the names of the atoms in some layers."""
        if self.anatomy is None or not self.anatomy.layers:
            kind = type(self.model).__name__
            message = f"nothing repeats in {kind}, so it has no layers: name modules in `targets`"
            self.problems.append(TargetProblem("layers", None, message))
            return set()
        depth = self.anatomy.depth()
        for index, text in enumerate(layers):
            if max(layer_indices((text,))) >= depth:
                message = f"the model has the layers 0 to {depth - 1}, got {text!r}"
                self.problems.append(TargetProblem("layers", index, message))
        meant = layer_indices(tuple(layers))
        return self._below([layer for layer in self.anatomy.layers if layer.index in meant])

    def _below(self, layers: Sequence[Layer]) -> set[str]:
        """Return the names of what a layer stands for."""
        return self._names(weight for layer in layers for _, weight in layer.roles())

    # ------------------------------------------------------------------ why nothing was found

    def _no_role(self, role: str) -> str:
        if self.anatomy is None:
            return nothing(self.model)
        return f"{type(self.model).__name__} has no {role!r} (it has: {', '.join(self.anatomy.roles())})"

    def _nothing(self, selector: str) -> str:
        """Say why a selector found no weight, with the nearest that would."""
        modules = dict(self.model.named_modules())
        hit = matcher(selector)
        for name, reason in unprunable(self.model).items():
            if hit(name, self.model) or ((owner := _split(name)[0]) in modules and hit(owner, modules[owner])):
                return f"{selector!r}: {name} {reason}"
        for name, parameter in self.model.named_parameters():
            if names_a_parameter(selector) and hit(name, self.model):
                return _no_matrix(name, parameter)
        kinds = {type(module).__name__: module for name, module in modules.items() if hit(name, module)}
        inside = tuple(f"{name}." for name in self.adapters.values())
        if any(f"{name}.".startswith(inside) and hit(name, module) for name, module in modules.items()):
            return f"{selector!r} matches only adapters, which must be named (`*.lora_A.*`)"
        if any(isinstance(module, TABLES) for module in kinds.values()):
            return f"{selector!r} matches only embeddings, which must be named (`embeddings`, `type:Embedding`)"
        if kinds:
            shown = ", ".join(sorted(kinds)[:5])
            return f"{selector!r} matches only modules without a prunable weight ({shown})"
        types = {type(weight.module).__name__ for weight in self.known}
        if selector in types:
            return f"{selector!r} matches no module (did you mean 'type:{selector}'?)"
        return f"{selector!r} matches nothing in {type(self.model).__name__}{self._nearest(selector, types)}"

    def _nearest(self, selector: str, types: Iterable[str]) -> str:
        """Suggest a type, a role, or the part of a dotted name that no module has."""
        if selector.startswith("type:"):
            return did_you_mean(selector[5:].strip(), types).replace("mean '", "mean 'type:")
        names = {weight.parameter_name.rpartition(".")[0] for weight in self.known}
        if selector.startswith("re:"):
            return did_you_mean(selector[3:], names, most=6)
        role = did_you_mean(selector, self.anatomy.roles() if self.anatomy else (), most=0)
        if role:
            return role
        parts = {part for name in names for part in name.split(".")}
        for part in selector.split("."):
            if part not in parts and not any(sign in part for sign in "*?["):
                near = did_you_mean(part, parts, most=0)
                if near:
                    return f": no name has the part {part!r}{near}"
        return did_you_mean(selector, names, most=6)


def _names_adapter(hit: Callable[[str, nn.Module], bool], name: str, module: nn.Module, adapter: str) -> bool:
    """Whether a selector means an adapter, or what is in it: it would not match if the adapter had another name."""
    above, _, _ = adapter.rpartition(".")
    other = f"{above}.\N{REPLACEMENT CHARACTER}" if above else "\N{REPLACEMENT CHARACTER}"
    parts = name.split(".")
    inside = [".".join(parts[:depth]) for depth in range(adapter.count(".") + 1, len(parts) + 1)]
    return any(hit(each, module) and not hit(other + each[len(adapter) :], module) for each in inside)


def _of_its_own(selector: str, module: nn.Module) -> bool:
    """Whether a `type:` means the class of a router, not one that any layer may have."""
    return type(module) is not nn.Linear and selector[5:].strip() == type(module).__name__


def _split(name: str) -> tuple[str, str]:
    """Return the module and the attribute of a parameter's name."""
    owner, _, own = name.rpartition(".")
    return owner, own


def _no_matrix(name: str, parameter: nn.Parameter) -> str:
    """Say why a parameter that somebody named cannot be pruned."""
    if parameter.dim() < 2:
        return f"{name} is no matrix: it has the shape {list(parameter.shape)}"
    return (
        f"{name} has the shape {list(parameter.shape)}, and it is not known which of its dimensions are outputs: "
        "register its class with sparsify.register_layer"
    )
