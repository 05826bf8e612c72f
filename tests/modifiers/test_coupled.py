"""`pattern: {type: channel, coupled: true}` in trainings: whole groups die, and nothing else of a model notices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import Manager, Plan, PlanError, Recipe
from sparsify.criteria.magnitude import Magnitude
from sparsify.demo.resnet import ResNet
from sparsify.layers import all_weights
from sparsify.masking.groups import reduced, tile_scores
from sparsify.patterns.bundle import Bundle, Part
from sparsify.structure.channels.data import Channels
from sparsify.structure.coupled import coupled_bundles
from sparsify.structure.graph import channels
from tests.networks import network

STEPS = 10
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def recipe(pattern: str = "reduce: l2", more: str = "", **fields: str) -> Recipe:
    """Return a recipe of one `prune` of coupled channels; fields are YAML text."""
    fields = {"targets": '"*"', "sparsity": "0.5", "window": "{begin: 2, end: 8, every: 2}"} | fields
    body = ", ".join(f"{key}: {value}" for key, value in fields.items() if value)
    pattern = f"{{type: channel, coupled: true, {pattern}}}"
    return Recipe.parse(f"version: 1\nmodifiers:\n  - {{type: prune, pattern: {pattern}, {body}}}\n{more}")


def image(step: int, like: nn.Module) -> Tensor:
    """Return the images of a step."""
    inputs = 1 if isinstance(like, ResNet) else 3
    return torch.randn(4, inputs, 16, 16, generator=torch.Generator().manual_seed(step))


def logits(model: nn.Module, step: int) -> Tensor:
    """Return what a model says about the images of a step."""
    made = model(image(step, model))
    return made.logits if isinstance(model, ResNet) else made  # type: ignore[no-any-return]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, manager: Manager, steps: range) -> None:
    """Train with the three hooks."""
    for step in steps:
        manager.on_step_begin()
        optimizer.zero_grad()
        logits(model, step).square().mean().backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return ResNet() if name == "resnet" else network(name)


def dead(model: nn.Module, found: Channels) -> dict[str, Tensor]:
    """Return which groups of every set are dead, and check that they are dead in all tensors, or in none."""
    gone = {}
    for each in found.sets:
        zero = []
        for side in each.dying:
            tensor = model.get_parameter(side.name).detach().movedim(side.axis, 0)
            tensor = tensor.reshape(len(tensor), -1)
            empty = (tensor[side.places] == 0).all(1)
            counts = torch.zeros(each.count).index_add(0, side.groups, empty.float())
            whole = torch.zeros(each.count).index_add(0, side.groups, torch.ones(len(empty)))
            zero.append(counts == whole)
        assert all(torch.equal(mine, zero[0]) for mine in zero)
        gone[each.name] = zero[0]
    return gone


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["resnet", "squeeze", "yolo"])
def test_whole_groups_die_and_the_rest_does_not_notice(name: str, optimizer: str) -> None:
    model = built(name)
    found = channels(model)
    made = OPTIMIZERS[optimizer](model.parameters())
    manager = Manager(recipe()).apply(model, made, total_steps=STEPS)
    train(model, made, manager, range(STEPS))
    density = manager.finalize()
    gone = dead(model.eval(), found)
    assert all(0 < int(each.sum()) < len(each) for each in gone.values())
    assert all(int(each.sum()) == -(-len(each) // 2) for each in gone.values()) or name != "resnet"
    assert density is not None
    with torch.no_grad():  # what reads dead channels reads zeros
        before = logits(model, 99)
        for each in found.sets:
            for side in each.reading:
                places = side.places[gone[each.name][side.groups]]
                parameter = model.get_parameter(side.name)
                parameter.index_add_(side.axis, places, torch.ones_like(parameter.index_select(side.axis, places)))
        assert torch.allclose(logits(model, 99), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scope", ["tensor", "global", "erk"])
def test_at_least_one_group_of_every_set_stays(scope: str) -> None:
    model = built("yolo")
    made = OPTIMIZERS["sgd"](model.parameters())
    manager = Manager(recipe(scope=scope, sparsity="0.8")).apply(model, made, total_steps=STEPS)
    train(model, made, manager, range(STEPS))
    manager.finalize()
    assert all(not bool(each.all()) for each in dead(model, channels(model)).values())


CRITERIA = {
    "random": "random",
    "movement": "{type: movement, init: magnitude}",
    "soft-movement": "{type: soft-movement, init: magnitude}",
    "hard-concrete": "{type: hard-concrete, learning_rate: 0.5}",
}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion(criterion: str) -> None:
    model = built("chunk")
    made = OPTIMIZERS["adamw"](model.parameters())
    manager = Manager(recipe(criterion=CRITERIA[criterion])).apply(model, made, total_steps=STEPS)
    train(model, made, manager, range(STEPS))
    manager.finalize()
    assert any(bool(each.any()) for each in dead(model, channels(model)).values())


@pytest.mark.parametrize("how", ["mean", "sum", "max", "l2"])
@pytest.mark.parametrize("name", ["chunk", "uneven", "grouped", "shuffled"])
def test_groups_are_ranked_by_all_their_members(name: str, how: Any) -> None:
    model = built(name)
    bundles, _ = coupled_bundles(model, all_weights(model))
    reduce = {"mean": Tensor.mean, "sum": Tensor.sum, "max": Tensor.max, "l2": Tensor.norm}[how]
    for each in channels(model).sets:
        (bundle,) = (bundle for bundle in bundles if bundle.name == each.name)
        wanted = []
        for group in range(each.count):
            members = []
            for side in each.dying:
                parameter = model.get_parameter(side.name).detach().movedim(side.axis, 0)
                members.append(parameter[side.places[side.groups == group]].flatten())
            wanted.append(reduce(torch.cat(members).abs()))
            sizes = bundle.sizes
            assert sum(map(len, members)) == (bundle.size if sizes is None else int(sizes[group]))
        assert torch.allclose(tile_scores(bundle, Magnitude(), how), torch.stack(wanted), rtol=1e-5)


def test_groups_of_different_sizes() -> None:
    model = built("uneven")
    made = OPTIMIZERS["sgd"](model.parameters())
    manager = Manager(recipe()).apply(model, made, total_steps=STEPS)
    (bundle,) = manager.plan.modifiers[0].competition.bundles  # type: ignore[attr-defined]
    assert bundle.sizes.tolist() == [3 * 29] * 4 + [2 * 29] * 4
    assert bundle.size == 3 * 29
    train(model, made, manager, range(STEPS))
    pruned = sum(int(bundle.sizes[group]) for group in dead(model, channels(model))["one.0"].nonzero().flatten())
    assert bundle.elements / 2 <= pruned < bundle.elements / 2 + bundle.size
    manager.finalize()


def test_a_part_of_scattered_rows_is_a_map_of_rows() -> None:
    (weight, *_) = all_weights(built("plain"))
    lines = torch.tensor([2, 0, 1, 1, 0, 3, 3, 2])
    part = Part.lined(weight, lines, 4)
    mapped = Part.mapped(weight, lines.view(8, 1, 1).expand(8, 9, 3).contiguous())
    for how in ("mean", "sum", "max", "l2"):
        found, wanted = (reduced(each, how, each.rows) for each in (part, mapped))  # type: ignore[arg-type]
        assert torch.allclose(found, wanted)
    mask = torch.tensor([True, False, True, False])
    assert torch.equal(part.expand(mask), mapped.expand(mask))
    assert (Bundle("a", (part,)).size, Bundle("a", (part,)).sizes, part.grid) == (54, None, mapped.grid)
    assert Part.lined(weight, torch.tensor([0, 0, 2, 2, 2, 0, 0, 0]), 3).sizes().tolist() == [135, 0, 81]


def test_a_resumed_training_goes_on_bit_by_bit() -> None:
    def run(broken: bool) -> nn.Module:
        model = built("yolo")
        made = OPTIMIZERS["adamw"](model.parameters())
        manager = Manager(recipe()).apply(model, made, total_steps=STEPS)
        train(model, made, manager, range(5))
        if broken:
            saved = manager.state_dict(), model.state_dict(), made.state_dict()
            model = built("yolo")
            made = OPTIMIZERS["adamw"](model.parameters())
            manager = Manager(recipe()).apply(model, made, total_steps=STEPS)
            model.load_state_dict(saved[1])
            made.load_state_dict(saved[2])
            manager.load_state_dict(saved[0])
        train(model, made, manager, range(5, STEPS))
        manager.finalize()
        return model

    one, other = run(False).state_dict(), run(True).state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


MORE = {
    "group lasso before": "  - {type: penalty, targets: '*', pattern: {type: channel, coupled: true}, strength: 0.01}\n",
    "weights afterwards": (
        "  - {type: prune, targets: '*', exclude: head, sparsity: {from: existing, to: 0.8, curve: one-shot}, "
        "window: {begin: 9}}\n"
    ),
}


@pytest.mark.parametrize("case", MORE)
def test_two_modifiers(case: str) -> None:
    model = built("squeeze")
    made = OPTIMIZERS["adamw"](model.parameters())
    manager = Manager(recipe(more=MORE[case])).apply(model, made, total_steps=STEPS)
    train(model, made, manager, range(STEPS))
    groups = {name: int(each.sum()) for name, each in dead(model, channels(model)).items()}
    assert groups == {"stem.0": 6, "down": 2, "last.0": 4}
    assert (manager.sparsity > 0.75) == (case == "weights afterwards")
    manager.finalize()


# ---------------------------------------------------------------------- plans


def test_a_plan_says_what_stays() -> None:
    plan = Plan.of(recipe(), built("squeeze"), total_steps=STEPS)
    assert list(dict.fromkeys(each.bundle for each in plan.modifiers[0].tensors)) == ["stem.0", "down", "last.0"]
    assert "head.weight: its channels stay (its channels are the model's output)" in str(plan)
    assert plan.modifiers[0].facts["pattern"] == "channel by l2 (coupled)"


def test_channels_that_are_targeted_in_part_stay_with_a_note() -> None:
    plan = Plan.of(recipe(targets="[stem, block.0]"), built("add"), total_steps=STEPS)
    assert {tensor.bundle for tensor in plan.modifiers[0].tensors} == {"block.0.0"}
    (note,) = plan.notes
    assert note == (
        "prune: stem.0.weight: must die together with channels of block.1.0.weight, which are not targeted; "
        "these channels stay"
    )


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        ("stem", "stem.0.weight: must die together with channels of block.1.0.weight, which are not targeted"),
        ("head", "head.weight: its channels stay (its channels are the model's output)"),
    ],
)
def test_a_recipe_that_prunes_nothing_is_refused(targets: str, reason: str) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.of(recipe(targets=targets), built("add"), total_steps=STEPS)
    assert reason in str(caught.value)


class Odd(nn.Module):
    """Takes two images, of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 4, 3), nn.Linear(4 * 64, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return logits."""
        both = torch.relu(self.two(torch.relu(self.one(torch.cat([left, right], 1)))))
        return self.head(both.flatten(1))  # type: ignore[no-any-return]


def test_inputs_that_cannot_be_guessed_are_asked_for() -> None:
    images = torch.randn(2, 1, 12, 12), torch.randn(2, 1, 12, 12)
    with pytest.raises(PlanError, match="need inputs on which Odd can be run.*example_inputs=.*--input-shape"):
        Plan.of(recipe(), Odd(), total_steps=STEPS)
    for given in (images, {"left": images[0], "right": images[1]}):
        plan = Plan.of(recipe(), Odd(), total_steps=STEPS, example_inputs=given)
        assert {tensor.bundle for tensor in plan.modifiers[0].tensors} == {"one", "two"}
    with pytest.raises(PlanError, match="Odd cannot be run on example_inputs: .*missing 1 required"):
        Plan.of(recipe(), Odd(), total_steps=STEPS, example_inputs=images[:1])
    with pytest.raises(PlanError, match="example_inputs are a tensor, a tuple of arguments or a mapping"):
        Plan.of(recipe(), Odd(), total_steps=STEPS, example_inputs="images")


def test_apply_takes_example_inputs() -> None:
    model = Odd()
    made = torch.optim.SGD(model.parameters(), lr=0.1)
    images = torch.randn(2, 1, 12, 12), torch.randn(2, 1, 12, 12)
    with pytest.raises(PlanError, match="example_inputs"):
        Manager(recipe()).apply(model, made, total_steps=STEPS)
    manager = Manager(recipe()).apply(model, made, total_steps=STEPS, example_inputs=images)
    assert {tensor.bundle for tensor in manager.plan.modifiers[0].tensors} == {"one", "two"}
    other = Recipe.parse("version: 1\nmodifiers:\n  - {type: prune, targets: '*', sparsity: 0.5}\n")
    with pytest.raises(PlanError, match="unknown binding 'example_inputs'"):
        Manager(other).apply(model, made, total_steps=STEPS, example_inputs=images)


def test_a_forward_that_cannot_be_followed_is_one_error() -> None:
    model = built("plain")
    model.forward = lambda x: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(PlanError, match="division by zero"):
        Plan.of(recipe(), model, total_steps=STEPS)
