"""Experts and routers of any model, found by structure: parameters that experts share, and lists of modules."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import nn

from sparsify.absent_experts import kept
from sparsify.anatomy.parts import Experts, FeedForward
from sparsify.layers import Weight, weights
from sparsify.layers.experts import interleaved, parts

ROUTERS = ("gate", "router", "gating", "wg", "shared_expert_gate")
"""What a router is called beside its experts; its matrix may lie deeper (`router.classifier`)."""

LIST = "experts"
"""What a list of experts that are modules of their own is called."""

FORMS = (("up_proj", "gate_proj", "down_proj"), ("w3", "w1", "w2"), ("wi_1", "wi_0", "wo"), ("wi", "", "wo"),
         ("fc1", "", "fc2"), ("linear1", "", "linear2"), ("up_proj", "", "down_proj"), ("w1", "", "w2"))  # fmt: skip
"""Up, gate and down of an expert that is a module; the first form that is there counts."""

WIDTHS = ("top_k", "num_experts_per_tok", "experts_per_token", "num_selected_experts", "moe_top_k")
"""Attributes that say to how many experts a token goes: of a router, of what holds it, or of a configuration."""


def find(name: str, root: nn.Module) -> Iterator[Experts]:
    """Yield the experts below a module that is called `name`."""
    for path, module, count in _places(root):
        here = _join(name, path)
        fused = parts(module)
        if fused:
            members, stacks = _fused(here, module, fused)
        else:
            members, stacks = _listed(here, module), ()
        routers, holders = _routers(name, root, path, _routed(root, path, count))
        yield Experts(here, count, members, stacks, routers, min(_width([*holders, module]), count))


def routers(model: nn.Module) -> list[Weight]:
    """Return the matrices of all routers of a model."""
    return [
        router
        for path, _, count in _places(model)
        for router in _routers("", model, path, _routed(model, path, count))[0]
    ]


def _places(root: nn.Module) -> Iterator[tuple[str, nn.Module, int]]:
    """Yield (path, module, number of experts)."""
    for path, module in root.named_modules():
        fused = parts(module)
        if fused:
            first = next(weights("", module), None)
            if first is not None:
                yield path, module, max(first.stack, 1)
        elif isinstance(module, (nn.ModuleList, nn.ModuleDict)) and path.rpartition(".")[2] == LIST and len(module) > 1:
            yield path, module, len(module)


def _routed(root: nn.Module, path: str, count: int) -> int:
    """Return among how many experts a router chooses: more than there are where some have left."""
    there = (root.get_submodule(each) for each in (path, path.rpartition(".")[0]))
    return next((found.of for module in there if (found := kept(module)) is not None), count)


def _routers(name: str, root: nn.Module, path: str, count: int) -> tuple[tuple[Weight, ...], list[nn.Module]]:
    """Return the routers of the experts at a path, and the modules that may say how many a token goes to."""
    above = path
    for _ in range(2):
        if not above:
            break
        above, _, child = above.rpartition(".")
        block = root.get_submodule(above) if above else root
        found, holders = [], [block]
        for below, module in block.named_modules():
            own = below.split(".")[0]
            if own not in ROUTERS or own == child:
                continue
            mine = [
                weight
                for weight in weights(_join(name, _join(above, below)), module)
                if weight.geometry.rows == (1 if own == "shared_expert_gate" else count)
            ]
            holders += [module, block.get_submodule(own)] if mine else []
            found += mine
        if found:
            return tuple(found), holders
    return (), []


def _width(modules: Collection[nn.Module]) -> int:
    """Return to how many experts a token goes; 1 where nobody says."""
    for module in modules:
        for source in (module, getattr(module, "config", None)):
            for attribute in WIDTHS:
                value: Any = getattr(source, attribute, None)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
    return 1


def _fused(here: str, module: nn.Module, found: dict[str, str]) -> tuple[tuple[FeedForward, ...], tuple[Weight, ...]]:
    """Return every expert as a feed-forward block, and the parameters that hold them all."""
    wholes = {weight.attribute: weight.whole for weight in weights(here, module)}
    if not set(found.values()) <= set(wholes):
        return (), ()
    of = {part: wholes[name] for part, name in found.items()}
    blocks = []
    for index in range(max(of["down"].stack, 1)):
        one = {part: _rows(weight, index, 0, weight.height) for part, weight in of.items()}
        if "fused" in of and not interleaved(module):
            half = of["fused"].height // 2
            one["gate"], one["up"] = (_rows(of["fused"], index, at * half, (at + 1) * half) for at in range(2))
        elif "fused" in of:  # two neighbouring rows are a neuron: its gate and its up
            one["up"] = one["fused"]
        blocks.append(FeedForward(_join(here, str(index)), one["up"], one["down"], one.get("gate")))
    return tuple(blocks), tuple(of.values())


def _rows(whole: Weight, expert: int, start: int, stop: int) -> Weight:
    return whole.rows(expert * whole.height + start, expert * whole.height + stop)


def _listed(here: str, experts: nn.Module) -> tuple[FeedForward, ...]:
    """Return experts that are modules of their own as feed-forward blocks; empty where one is of no form we know."""
    blocks = []
    for child, expert in experts.named_children():
        own = {
            name: next(weights(_join(here, f"{child}.{name}"), part), None) for name, part in expert.named_children()
        }
        form = next((form for form in FORMS if all(own.get(name) for name in form if name)), None)
        if form is None:
            return ()
        up, gate, down = (own.get(name) for name in form)
        if up is None or down is None or up.geometry.rows != down.geometry.columns:
            return ()
        blocks.append(FeedForward(_join(here, child), up, down, gate))
    return tuple(blocks)


def _join(root: str, path: str) -> str:
    return f"{root}.{path}" if root and path else root or path
