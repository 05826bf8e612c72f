"""The graph of a model's channels: which outputs of which layers must die together, and what reads them.

It is read from one forward of a small random twin on the CPU (see `channels/`), and tried with numbers before anything
is offered. Masks are made from it, and so will be smaller models.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.errors import PlanError, first_line
from sparsify.layers import all_weights, settings
from sparsify.structure.channels.check import Check
from sparsify.structure.channels.data import Channels, ChannelSet, Side
from sparsify.structure.channels.follower import Follower
from sparsify.structure.channels.inputs import HOW, Inputs, given, guesses
from sparsify.structure.channels.moves import moves
from sparsify.structure.channels.norms import norms
from sparsify.structure.channels.pointwise import pointwise
from sparsify.structure.channels.sets import Classes, Line
from sparsify.structure.channels.twin import settle, twin
from sparsify.structure.channels.weighted import convolution, linear
from sparsify.structure.channels.windows import reductions, windows

RULES = (convolution, linear, norms, windows, reductions, moves, pointwise)
SECONDS = 60.0
"""The most that following, and checking, may take of computing."""

_KNOWN: OrderedDict[Any, Channels] = OrderedDict()
KEPT = 8


def channels(model: nn.Module, example_inputs: Any = None) -> Channels:
    """Return which channels of a model must die together; the model is neither run nor changed.

    `example_inputs` are what its forward takes (a tensor, a tuple, a mapping); without them they are guessed. Weights
    are not read: the meta device will do. The answer is kept for models of the same structure. Raises PlanError for a
    model that cannot be run on the inputs, is too large, or takes too long.
    """
    key = _fingerprint(model), None if example_inputs is None else given(example_inputs).shapes()
    found = _KNOWN.get(key)
    if found is None:
        with torch.random.fork_rng(devices=[]):
            found = _KNOWN[key] = _read(model, example_inputs)
        while len(_KNOWN) > KEPT:
            _KNOWN.popitem(last=False)
    return found


def _read(model: nn.Module, example_inputs: Any) -> Channels:
    made = twin(model)
    inputs = _runnable(made, example_inputs)
    with torch.no_grad():
        settle(made, lambda: inputs.run(made))
    follower = Follower(made, RULES, SECONDS)
    try:
        with torch.no_grad(), follower:
            outputs = inputs.run(made)
        follower.finish(outputs)
    except PlanError:
        raise
    except Exception as error:  # whatever a model does
        raise PlanError(f"the channels of {type(model).__name__} cannot be followed: {first_line(error)}") from error
    finally:
        follower.close()
    whole: dict[str, str] = {}
    sets = _sets(made, follower.classes, whole)
    refused = Check(made, inputs, SECONDS).refused(sets)
    for each in sets:
        if each.name in refused:
            whole |= {side.name: refused[each.name] for side in each.sides if side.kind == "output"}
    unseen = tuple(name for name, _ in made.named_parameters() if name not in follower.used)
    return Channels(tuple(each for each in sets if each.name not in refused), whole, unseen)


def _runnable(made: nn.Module, example_inputs: Any) -> Inputs:
    """Return the inputs, or the first guess, that a model runs on. Raises PlanError."""
    reason = "nothing tells what it takes"
    for inputs in [given(example_inputs)] if example_inputs is not None else guesses(made):
        try:
            with torch.no_grad():
                inputs.run(made)
        except Exception as error:  # whatever a model does with data that are not its own
            reason = first_line(error)
        else:
            return inputs
    kind = type(made).__name__
    if example_inputs is not None:
        raise PlanError(f"coupled channels: {kind} cannot be run on example_inputs: {reason}")
    raise PlanError(
        f"coupled channels need inputs on which {kind} can be run, and none could be guessed ({reason}); {HOW}"
    )


def _sets(made: nn.Module, classes: Classes, whole: dict[str, str]) -> list[ChannelSet]:
    """Return the groups in sets of the same tensors; `whole` is told of parameters that have none."""
    known = {weight.parameter_name: weight for weight in all_weights(made)}
    for name, _ in made.named_parameters():
        module = made.get_submodule(name.rpartition(".")[0])
        if name not in known and name.endswith("weight") and "Conv" in type(module).__name__:
            classes.strange.setdefault(name, "is of a kind that cannot be pruned yet")
    order = {name: number for number, (name, _) in enumerate(_tensors(made))}
    sets, offered = [], set[str]()
    for lines, roots in _together(classes.dying()):
        lines.sort(key=lambda line: (order.get(line.place[0], -1), line.place[1]))
        sides = [_side(line, roots) for line in lines]
        outputs = [side for side in sides if side.kind == "output"]
        if len(roots) < 2:
            whole |= {side.name: "all its channels die together, and one must stay" for side in outputs}
            continue
        offered |= {side.name for side in outputs}
        sets.append(ChannelSet(_title(outputs[0], known), len(roots), tuple(sides)))
    for (name, _), kind, labels in classes.attached():
        if kind == "output" and name not in offered:
            reasons = (classes.reason(label) for label in labels.values())
            whole.setdefault(name, next((reason for reason in reasons if reason), "its channels are not read"))
    for name, reason in classes.strange.items():
        if name not in offered:
            whole.setdefault(name, reason)
    return _named_apart(sorted(sets, key=lambda each: order[next(each.dying).name]))


def _together(lines: list[Line]) -> Iterator[tuple[list[Line], Tensor]]:
    """Yield lines that share channels, and those channels that lie in them and no others (ascending, int64 [n])."""
    places: dict[int, list[int]] = defaultdict(list)
    for number, line in enumerate(lines):
        for root in torch.unique(line.roots).tolist():
            places[root].append(number)
    together: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for root in sorted(places):
        together[tuple(places[root])].append(root)
    for numbers, roots in together.items():
        found = [lines[number] for number in numbers]
        if any(line.kind == "output" for line in found):
            yield found, torch.tensor(roots)


def _side(line: Line, roots: Tensor) -> Side:
    """Return the part of a line that belongs to some channels, numbered in their order."""
    mine = torch.isin(line.roots, roots)
    groups = torch.searchsorted(roots, line.roots[mine])
    return Side(*line.place, line.kind, line.positions[mine], groups)


def _title(side: Side, known: Any) -> str:
    return side.name.rpartition(".")[0] or side.name


def _named_apart(sets: list[ChannelSet]) -> list[ChannelSet]:
    """Give sets of one module the rows that they have, and a number where that is not enough."""
    counts: dict[str, int] = defaultdict(int)
    for each in sets:
        counts[each.name] += 1
    taken: dict[str, int] = defaultdict(int)
    found = []
    for each in sets:
        name = each.name
        if counts[name] > 1:
            first = next(side for side in each.sides if side.kind == "output")
            name = f"{name}[{int(first.places[0])}:{int(first.places[-1]) + 1}]"
            taken[name] += 1
            name += f" ({taken[name]})" if taken[name] > 1 else ""
        found.append(ChannelSet(name, each.count, each.sides))
    return found


def _fingerprint(model: nn.Module) -> Any:
    """Return what tells models from others that compute something else; hashable, without weights."""
    return settings(model), tuple(name for name, _ in model.named_parameters())


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers()
