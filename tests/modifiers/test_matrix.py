"""The combination matrix: every criterion × pattern × scope × curve × kind of layer, found by itself.

What validates must be exact at every update, nest as sparsity rises, be deterministic, survive a round trip
through YAML, and resume bit by bit; what does not must be refused with a sentence. The default suite takes
every criterion × pattern × scope, with the layers and curves in turn (a lock, which ranks nothing, with one scope);
`slow` takes the whole product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import Manager, PlanError, Recipe
from sparsify.criteria import Criterion
from sparsify.masking import budget, pieces
from sparsify.modifiers.prune import Prune
from sparsify.modifiers.prune.plan import PrunePlan
from sparsify.patterns import Pattern
from sparsify.patterns.bundle import Bundle, Part
from sparsify.plan import Plan
from sparsify.schedules import Curve, Ramp, Window
from sparsify.scopes import Scope
from sparsify.scopes.tensor import TensorScope
from tests import examples
from tests.layers import KINDS, Kind

STEPS, STOP = 6, 3
KNOWN = {"BERT", "GPT-2", "Llama", "Mixtral", "GPT-OSS", "XLNet"}
"""The kinds whose architecture is known, or inferred."""

Axes = tuple[Criterion, Pattern, Scope]

CRITERIA = [*Criterion.samples(), *examples.CRITERIA]
PATTERNS = [*Pattern.samples(), *examples.PATTERNS]
AXES: list[Axes] = [
    *itertools.product(Criterion.samples(), Pattern.samples(), Scope.samples()),
    *itertools.product(examples.CRITERIA, Pattern.samples()[:4], Scope.samples()[:2]),
    *itertools.product(Criterion.samples(), examples.PATTERNS, Scope.samples()[:2]),
]
CURVES = Curve.samples()
LATENT = {"linear", "exponential"}
"""With these curves, scores that are not learned are tried with latent masking."""

DENSE = {"cosine"}
"""With these, magnitude is tried with ADMM."""

RANKED = [axes for axes in AXES if not axes[0].keeps_zeros or axes[2] == TensorScope()]
RARE = ("Mixtral", "GPT-OSS", "recurrent", "transposed", "Bilinear", "XLNet")
"""Kinds of which a combination of axes meets one in the default suite, in turn; of the others it meets half."""

IN_TURN = [
    (axes, kind, CURVES[(turn * len(KINDS) + place) % len(CURVES)])
    for turn, axes in enumerate(RANKED)
    for place, kind in enumerate(KINDS)
    if (turn + place) % (len(RARE) if kind in RARE else 2) == 0
]
WHOLE = list(itertools.product(AXES, KINDS, CURVES))


@pytest.fixture(autouse=True)
def _plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes may name the examples."""
    for root, plugins in ((Criterion, examples.CRITERIA), (Pattern, examples.PATTERNS)):
        members = {plugin.type: type(plugin) for plugin in plugins}
        monkeypatch.setattr(root, "_members", root.members() | members)


def name(case: tuple[Axes, str, Curve]) -> str:
    """Return a test's name."""
    axes, kind, curve = case
    return ", ".join([*(axis.label() for axis in axes), kind, curve.label()])


def recipe_of(axes: Axes, kind: Kind, curve: Curve) -> Recipe:
    """Return a recipe of one `prune`, as sparse as pattern, scope and layers allow up to 70 %."""
    criterion, pattern, scope = axes
    most = min(0.7, pattern.most(), scope.highest(), kind.most(pattern))
    latent = not criterion.learned and not criterion.keeps_zeros and curve.type in LATENT
    admm = criterion.type == "magnitude" and curve.type in DENSE
    ramp = None if criterion.keeps_zeros else Ramp(from_=0.1 * most, to=most, curve=curve)
    once = criterion.keeps_zeros or curve.once
    window = {"begin": int(not criterion.keeps_zeros)} if once else {"begin": 1, "end": 5, "every": 2}
    spec = Prune(
        targets=kind.targets,
        criterion=criterion,
        pattern=pattern,
        scope=scope,
        sparsity=ramp,
        window=Window.model_validate(window),
        masking="latent" if latent else "admm" if admm else None,
    )
    return Recipe(version=1, modifiers=(spec,))


def masks_of(manager: Manager) -> dict[str, Tensor]:
    """Return copies of the masks in force."""
    found = {}
    for weight in (weight for modifier in manager.plan.modifiers for weight in modifier.masked):
        mask = manager._masks.of(weight)
        if mask is not None:
            found[weight.name] = mask.clone()
    return found


def alive(bundle: Bundle, masks: dict[str, Tensor]) -> list[bool]:
    """Return which tiles of a bundle are kept; every tile must be whole, and the same in all its tensors."""
    kept: list[bool] | None = None
    for part in bundle.parts:
        tiles = tiles_of(part, masks[part.weight.name])
        assert all(bool((tile == tile[0]).all()) for tile in tiles), "groups are whole"
        mine = [bool(tile[0]) for tile in tiles]
        assert kept in (None, mine), "one fate in all tensors"
        kept = mine
    assert kept is not None
    return kept


def check_exact(plan: PrunePlan, wanted: float, masks: dict[str, Tensor]) -> None:
    """Every arena has the shortest prefix of groups that reaches its budget, and groups are whole."""
    competition = plan.competition
    scope = competition.scope
    for bundle in competition.bundles:
        if bundle.single:
            continue
        kept = alive(bundle, masks)
        if bundle.quota > 1:
            runs = [sum(run) for run in zip(*[iter(kept)] * (len(kept) // bundle.quota), strict=True)]
            assert len(set(runs)) == 1, "an equal number from every run"
    for arena in competition.arenas:
        for share in competition.shares(arena, wanted):
            bundles = [competition.bundles[index] for index in share.members]
            if scope.by_row:
                check_rows(bundles, share.sparsity, masks)
                continue
            elements = sum(bundle.elements for bundle in bundles)
            pruned = {bundle.name: pruned_of(bundle, masks) for bundle in bundles}
            floor, ceiling = scope.bounds(share.sparsity)
            least = sum(math.ceil(floor * bundle.elements - 1e-9) + bundle.size - 1 for bundle in bundles)
            size = max(bundle.size for bundle in bundles)
            asked = budget(share.sparsity, elements)
            assert asked <= sum(pruned.values()) < max(asked + size, least + 1 if floor else 0)
            for bundle in bundles:
                assert math.ceil(floor * bundle.elements - 1e-9) <= pruned[bundle.name]
                assert pruned[bundle.name] <= math.floor(ceiling * bundle.elements + 1e-9) + bundle.size - 1


def check_rows(bundles: list[Bundle], wanted: float, masks: dict[str, Tensor]) -> None:
    """Every row of groups has the fewest groups that reach its own budget."""
    for bundle in bundles:
        (part,) = bundle.parts
        for rows in part.weight.cube(masks[part.weight.name]).split(part.tile[0]):
            pruned = int((~rows).sum())
            assert budget(wanted, rows.numel()) <= pruned < budget(wanted, rows.numel()) + bundle.size


def pruned_of(bundle: Bundle, masks: dict[str, Tensor]) -> int:
    """Count the pruned weights of a bundle."""
    return sum(int((~masks[part.weight.name]).sum()) for part in bundle.parts)


def run(recipe: Recipe, kind: Kind) -> Iterator[tuple[Manager, nn.Module, Any]]:
    """Train step by step."""
    model = kind.build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    manager = Manager(recipe).apply(model, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        kind.step(model, optimizer, manager, step)
        yield manager, model, optimizer
    manager.finalize()


def check(case: tuple[Axes, str, Curve]) -> bool:
    """Check a combination; return whether it was allowed."""
    axes, kind_name, curve = case
    kind = KINDS[kind_name]
    try:
        recipe = recipe_of(axes, kind, curve)
    except ValueError as error:
        assert any(len(line["msg"]) > 20 for line in error.errors())  # type: ignore[attr-defined]
        return False
    assert Recipe.parse(recipe.dump()).staged() == recipe.staged()
    before: dict[str, Tensor] = {}
    try:
        for manager, model, optimizer in run(recipe, kind):
            masks = masks_of(manager)
            (plan,) = manager.plan.modifiers
            assert isinstance(plan, PrunePlan)
            settled = not axes[0].gated or manager.step >= plan.window.end
            if plan.window.due(manager.step) and manager.target is not None and settled:
                check_exact(plan, manager.target, masks)
            for weight, mask in ((masked.weight, masked.mask) for masked in manager._masks):
                assert not bool(weight.tensor[~mask].any()), "outside the step the parameters are the sparse model"
            for name, mask in before.items() if not plan.spec.latent else ():
                assert not bool((masks[name] & ~mask).any()), "masks nest under projection"
            before = masks
            if manager.step == STOP:
                saved = [clone(part.state_dict()) for part in (model, optimizer, manager)]
    except PlanError as error:
        assert len(str(error)) > 20
        return False
    if axes[0].keeps_zeros:
        check_lock(plan, kind.build(), before)
    check_resume(recipe, kind, saved, model)
    return True


def check_lock(plan: PrunePlan, initial: nn.Module, masks: dict[str, Tensor]) -> None:
    """A group is kept if it had a weight that was not zero."""
    for bundle in plan.competition.bundles:
        found = {}
        for part in bundle.parts:
            weights = part.weight.region(initial.get_parameter(part.weight.parameter_name).detach())
            found[part.weight.name] = (weights != 0).double()
        for part in bundle.parts:
            sums = [
                torch.stack([tile.sum() for tile in tiles_of(other, found[other.weight.name])])
                for other in bundle.parts
            ]
            wanted = torch.stack(sums).sum(0) > 0
            mine = torch.stack([tile.all() for tile in tiles_of(part, masks[part.weight.name])])
            assert torch.equal(mine, wanted)


def tiles_of(part: Part, tensor: Tensor) -> list[Tensor]:
    """Return the tiles of a tensor, flat, in order."""
    cube = part.weight.cube(tensor)
    if part.index is not None:
        return [cube[part.index == tile] for tile in range(part.grid[0])]
    corners = itertools.product(*(range(0, size, side) for size, side in zip(cube.shape, part.tile, strict=True)))
    height, depth, width = part.tile
    return [cube[r : r + height, t : t + depth, c : c + width].flatten() for r, t, c in corners]


def clone(state: Any) -> Any:
    """Return a copy of a state's tensors."""
    return torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, state)


def check_resume(recipe: Recipe, kind: Kind, saved: list[Any], finished: nn.Module) -> None:
    """Going on from a state gives the same weights, bit by bit."""
    again = kind.build()
    optimizer = torch.optim.AdamW(again.parameters(), lr=0.003)
    manager = Manager(recipe).apply(again, optimizer, total_steps=STEPS)
    for part, state in zip((again, optimizer, manager), saved, strict=True):
        part.load_state_dict(state)
    for step in range(STOP, STEPS):
        kind.step(again, optimizer, manager, step)
    manager.finalize()
    for mine, theirs in zip(again.parameters(), finished.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("axes", RANKED, ids=lambda axes: ", ".join(axis.label() for axis in axes))
def test_every_combination(axes: Axes) -> None:
    for case in IN_TURN:
        if case[0] is axes:
            check(case)


@pytest.mark.slow
@pytest.mark.parametrize("axes", AXES, ids=lambda axes: ", ".join(axis.label() for axis in axes))
def test_the_whole_product(axes: Axes) -> None:
    for case in WHOLE:
        if case[0] is axes:
            check(case)


@pytest.mark.parametrize("criterion", Criterion.samples(), ids=lambda criterion: criterion.label())
def test_every_criterion_is_allowed_everywhere(criterion: Criterion) -> None:
    unstructured = next(pattern for pattern in Pattern.samples() if pattern.type == "unstructured")
    linear = next(curve for curve in CURVES if curve.type == "linear")
    assert all(check(((criterion, unstructured, TensorScope()), kind, linear)) for kind in KINDS)


def test_what_is_allowed_is_most() -> None:
    """A matrix that refuses everything would pass; so every value of every axis must be allowed somewhere."""
    assert len(WHOLE) > 10_000
    magnitude = next(axes[0] for axes in AXES if axes[0].type == "magnitude")
    tensor = next(axes[2] for axes in AXES if axes[2].type == "tensor")
    for pattern in Pattern.samples():
        allowed = [kind for kind in KINDS if check(((magnitude, pattern, tensor), kind, CURVES[0]))]
        assert allowed, pattern
    for scope in Scope.samples():
        pattern = next(axes[1] for axes in AXES if axes[1].type == "unstructured")
        allowed = [kind for kind in KINDS if check(((magnitude, pattern, scope), kind, CURVES[0]))]
        assert set(allowed) == (KNOWN if scope.needs_anatomy() else set(KINDS)), scope


def piecewise_masks(axes: Axes, kind: Kind, size: int | None) -> list[dict[str, Tensor]]:
    """Return two nested masks, every tensor read `size` weights at a time or as a whole; [] where it is refused."""
    model = kind.build()
    for parameter in model.parameters():  # sums are exact, so that they do not depend on their order
        parameter.data = (parameter.data * 64).round() / 64
    try:
        curve = next(curve for curve in CURVES if curve.type == "linear")
        (plan,) = Plan.of(recipe_of(axes, kind, curve), model, total_steps=STEPS).modifiers
    except (PlanError, ValueError):
        return []
    assert isinstance(plan, PrunePlan)
    competition = plan.competition
    with pytest.MonkeyPatch.context() as patch:
        if size is not None:
            sizes = {"CHUNK": {"cpu": size}, "PIECE": size, "PROBE": size, "SMALL": 200, "SAMPLE": 24}
            for constant, value in sizes.items():
                patch.setattr(pieces, constant, value)
        if axes[0].keeps_zeros:
            return [competition.lock()]
        generator = torch.Generator().manual_seed(0)
        learned = {
            bundle.name: torch.randint(
                -9, 9, bundle.parts[0].weight.shape if bundle.single else (bundle.tiles,), generator=generator
            ).float()
            for bundle in competition.bundles
        }
        most = min(0.7, axes[1].most(), axes[2].highest(), kind.most(axes[1]))
        masks: list[dict[str, Tensor]] = []
        for part in (0.4, 1.0):
            before = masks[-1] if masks else None
            scores = learned if axes[0].learned else None
            masks.append(competition.masks(lambda arena, s=part * most: s, before, scores))  # type: ignore[misc]
        return masks


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: criterion.label())
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.label())
def test_pieces_give_the_masks_of_the_whole(criterion: Criterion, pattern: Pattern) -> None:
    """Read 7 or 13 weights at a time, every criterion, pattern and scope gives the same masks, bit by bit."""
    small = [KINDS[name] for name in ("Conv2d", "Linear", "Conv1D", "Conv2d", "Embedding", "depthwise", "Conv3d")]
    tried, spanning = 0, ("head", "neuron", "expert")
    for scope, kind, size in zip(Scope.samples(), small, itertools.cycle((7, 13)), strict=False):
        axes = (criterion, pattern, scope)
        whole = piecewise_masks(axes, kind, None)
        for mine, wanted in zip(piecewise_masks(axes, kind, size), whole, strict=True):
            tried += 1
            assert mine.keys() == wanted.keys()
            assert all(torch.equal(mask, wanted[name]) for name, mask in mine.items())
    if pattern.type in spanning:
        kind = KINDS["Mixtral" if pattern.type == "expert" else "GPT-2"]
        axes = (criterion, pattern, TensorScope())
        assert all(
            torch.equal(mask, wanted[name])
            for mine, wanted in zip(piecewise_masks(axes, kind, 7), piecewise_masks(axes, kind, None), strict=True)
            for name, mask in mine.items()
        )
    assert tried or pattern.type in spanning or criterion.type != "magnitude"
