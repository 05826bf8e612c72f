"""A manager's saved state: how it is made, and how it is checked before anything of it is taken up."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparsify._version import __version__
from sparsify.bits import fingerprint
from sparsify.errors import StateError
from sparsify.layers import Weight
from sparsify.masking.masks import Masked, Masks
from sparsify.masking.packing import pack, unpack
from sparsify.masking.project import project_
from sparsify.masking.store import MaskStore
from sparsify.modifiers.contract import Run
from sparsify.plan import Plan
from sparsify.state_reader import StateReader
from sparsify.structure.change import Change
from sparsify.transaction import Clock

FORMAT = 2

STRUCTURE = "structure"
"""What was changed of the model's structure; states from before there was such a thing lack it."""

PARTS = ("format", "sparsify", "recipe", "sha256", "clock", "stage", "modifiers", "masks", "weights")


@dataclass(frozen=True)
class Saved:
    """A state that was checked."""

    clock: Clock
    masks: Masks
    modifiers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """By key, of the modifiers that can take theirs up."""


def state_of(plan: Plan, clock: Clock, masks: MaskStore, runs: Sequence[Run]) -> dict[str, Any]:
    """Return plain data and tensors from which a manager can go on bit by bit."""
    return {
        "format": FORMAT,
        "sparsify": __version__,
        "recipe": plan.recipe.canonical(),
        "sha256": plan.recipe.sha256,
        "clock": {
            "step": clock.step,
            "attempts": clock.attempts,
            "epoch_attempts": clock.epoch_attempts,
            "total_steps": plan.total_steps,
            "steps_per_epoch": plan.steps_per_epoch,
        },
        "stage": plan.stage_at(clock.step),
        STRUCTURE: {key: change.to_state() for key, change in plan.changes.items()},
        "modifiers": {run.key: run.state_dict() for run in runs},
        "masks": {
            masked.weight.parameter_name: {
                "shape": list(masked.mask.shape),
                "packed": pack(masked.mask.cpu()),
                "owners": [[*span, owner] for span, owner in masked.owners.items()],
            }
            for masked in masks
        },
        "weights": {weight.parameter_name: fingerprint(weight.parameter) for weight in masks.weights()},
    }


def read_state(
    state: Any, plan: Plan, runs: Sequence[Run], *, allow_changed_recipe: bool, verify_weights: bool
) -> Saved:
    """Return a state, checked to the last value; nothing is changed. Raises StateError."""
    reader = StateReader(state)
    missing = [part for part in PARTS if part not in reader]
    if missing:
        raise StateError(f"not a manager's state: it lacks {', '.join(missing)}")
    if reader.integer("format") != FORMAT:
        raise StateError(f"the state has format {reader.integer('format')}, this sparsify reads {FORMAT}")
    reader.within((*PARTS, STRUCTURE))
    for key in ("sparsify", "recipe", "sha256", "stage"):
        reader.text(key)
    _check_structure(_changes(reader), plan)
    clock = _clock(reader.part("clock"), plan)
    if not allow_changed_recipe:
        _check_same(reader, plan)
    known = {weight.parameter_name: weight.whole for run in runs for weight in run.plan.masked}
    masks = _masks(reader.part("masks"), known, None if allow_changed_recipe else {run.key for run in runs})
    weights = reader.part("weights")
    for name in weights:
        weights.integer(name, 0, 2**64 - 1)
    if verify_weights:
        _check_weights(weights, known, masks)
    modifiers = _modifiers(reader.part("modifiers"), runs, clock.step, allow_changed=allow_changed_recipe)
    return Saved(clock, masks, modifiers)


def changes_of(state: Any) -> dict[str, Change]:
    """Return what a saved state says of the model's structure, by the key of the modifier. Raises StateError."""
    reader = StateReader(state)
    if "modifiers" not in reader:
        raise StateError("not a manager's state: it lacks modifiers")
    return _changes(reader)


def _changes(saved: StateReader) -> dict[str, Change]:
    if STRUCTURE not in saved:
        return {}
    part = saved.part(STRUCTURE)
    return {key: Change.from_state(part.part(key)) for key in part}


def _check_structure(saved: Mapping[str, Change], plan: Plan) -> None:
    """Raise StateError for a state of a model whose structure was changed in another way."""
    then, now = ([each for each in changes.values() if each.alters] for changes in (saved, plan.changes))
    if len(then) != len(now) or not all(any(one.same(other) for other in now) for one in then):
        texts = ["; ".join(each.summary() for each in side) or "as it was made" for side in (then, now)]
        raise StateError(
            f"the state was saved with another structure ({texts[0]}) than this model has ({texts[1]}): build the "
            "model as it was before the training, and call attach(model, state=…)"
        )


def _clock(saved: StateReader, plan: Plan) -> Clock:
    saved.exactly(("step", "attempts", "epoch_attempts", "total_steps", "steps_per_epoch"))
    step, attempts = saved.integer("step"), saved.integer("attempts")
    if attempts < step:
        raise saved.fail("attempts", f"fewer attempts ({attempts}) than completed steps ({step})")
    if plan.total_steps is not None and step > plan.total_steps:
        raise saved.fail("step", f"{step} steps are completed, but the training has {plan.total_steps}")
    for key in ("total_steps", "steps_per_epoch"):
        saved.optional_integer(key, 1)
    return Clock(step, attempts, saved.optional_integer("epoch_attempts"))


def _check_same(saved: StateReader, plan: Plan) -> None:
    """Raise StateError for a state of another recipe, or of another length of training."""
    if saved.text("sha256") != plan.recipe.sha256:
        raise StateError(
            "the state was saved under another recipe (allow_changed_recipe=True continues anyway):\n"
            + _difference(saved.text("recipe"), plan.recipe.canonical())
        )
    clock = saved.part("clock")
    for key, now in (("total_steps", plan.total_steps), ("steps_per_epoch", plan.steps_per_epoch)):
        if clock.any(key) != now:
            raise StateError(
                f"the state was saved with {key}={clock.any(key)}, apply() was given {now}: "
                "windows would shift (allow_changed_recipe=True continues anyway)"
            )


def _masks(saved: StateReader, known: Mapping[str, Weight], owners: set[str] | None) -> Masks:
    """Return the masks. `owners` are the modifiers that there are; None where any may have made them."""
    masks = Masks()
    for name in saved:
        weight = known.get(name)
        if weight is None:
            raise StateError(f"the state has a mask for {name}, which the model or the recipe lacks")
        one = saved.part(name).exactly(("shape", "packed", "owners"))
        shape = tuple(weight.shape)
        sides = one.integers("shape")
        if sides != list(shape):
            raise StateError(f"the state's mask for {name} is {sides}, the parameter {list(shape)}")
        packed = one.tensor("packed", (-(-weight.geometry.elements // 8),), torch.uint8)
        mask = unpack(packed.cpu(), shape).to(weight.parameter.device)
        free = weight.geometry.rows
        rows = 0
        for start, stop, owner in _owners(one, weight):
            if start < rows or (owners is not None and owner not in owners):
                raise one.fail("owners", f"rows {start} to {stop} have two owners, or one that is not here")
            rows = stop
            for part in weight.pieces(start, stop):
                masks.set(part, part.region(mask).clone(), owner)
            free -= stop - start
        if free == weight.geometry.rows and free:
            raise one.fail("owners", "nobody owns the mask")
    return masks


def _owners(saved: StateReader, weight: Weight) -> list[tuple[int, int, str]]:
    """Return (first row, last + 1, owner) in order."""
    value = saved.any("owners")
    found = []
    for entry in value if isinstance(value, (list, tuple)) else [()]:
        start, stop, owner = entry if isinstance(entry, (list, tuple)) and len(entry) == 3 else (None, None, None)
        if type(start) is not int or type(stop) is not int or not isinstance(owner, str):
            raise saved.fail("owners", "expected a list of [first row, last row + 1, owner]")
        if not 0 <= start < max(stop, 1) <= max(weight.geometry.rows, 1):
            raise saved.fail("owners", f"rows that the parameter lacks: it has {weight.geometry.rows}")
        found.append((start, stop, owner))
    return sorted(found)


def _check_weights(saved: StateReader, known: Mapping[str, Weight], masks: Masks) -> None:
    """Raise StateError if the parameters are not those that the state was saved with."""
    frozen = {masked.weight.parameter_name: masked for masked in masks if not masked.weight.parameter.requires_grad}
    wrong = []
    for name in saved:
        if name in known:
            parameter = known[name].parameter
            shown = _under(frozen[name]) if name in frozen else parameter
            wrong += [name] if fingerprint(shown) != saved.any(name) else []
    for masked in masks:
        name = masked.weight.parameter_name
        if name not in saved or (name not in frozen and bool((masked.weight.tensor[~masked.near()] != 0).any())):
            wrong.append(name)
    if wrong:
        raise StateError(
            f"the weights of {wrong[0]} are not those that this state was saved with; load the model's weights "
            "first, from the same checkpoint (verify_weights=False continues anyway)"
        )


def _under(masked: Masked) -> Tensor:
    """Return a frozen parameter under its mask.

    A trainer that saves what is trained alone (adapters) leaves it out of its checkpoints: it is as it was before.
    """
    shown = masked.weight.tensor.clone()
    project_(shown, masked.near())
    return shown


def _modifiers(
    saved: StateReader, runs: Sequence[Run], step: int, *, allow_changed: bool
) -> dict[str, Mapping[str, Any]]:
    """Return the states of modifiers, checked. Under a changed recipe, those that do not fit are left out and named."""
    if not allow_changed:
        saved.exactly([run.key for run in runs])
    found, anew = {}, []
    for run in runs:
        try:
            run.check_state(saved.part(run.key), step)
            found[run.key] = saved.any(run.key)
        except StateError as error:
            if not allow_changed:
                raise
            anew.append(f"{run.key} ({error})")
    if anew:
        warnings.warn(
            f"what was saved does not fit these modifiers; they start again from the masks: {'; '.join(anew)}",
            stacklevel=4,
        )
    return found


def _difference(saved: str, now: str) -> str:
    """Return a unified diff of two canonical recipes, as readable JSON lines."""
    try:
        before, after = (json.dumps(json.loads(text), indent=1).splitlines() for text in (saved, now))
    except (ValueError, RecursionError):
        return "(the saved recipe cannot be read)"
    lines = list(difflib.unified_diff(before, after, "saved", "now", lineterm="", n=2))
    return "\n".join(lines[:60] + (["…"] if len(lines) > 60 else []))
