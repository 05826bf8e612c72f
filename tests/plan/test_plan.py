"""The plan: targets, windows, numbers, and every reason why a recipe does not fit."""

from __future__ import annotations

import io
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsify import Plan, PlanError, Recipe
from sparsify.targets import Targets
from tests.drawn import examples
from tests.loop import recipe


class Block(nn.Module):
    """A transformer-like block, for names and types."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)


class Net(nn.Module):
    """Embedding, two blocks, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.layers = nn.ModuleList([Block(), Block()])
        self.conv = nn.Conv2d(3, 4, 3)
        self.classifier = nn.Linear(8, 3)


def matched(targets: list[str], exclude: list[str]) -> list[str]:
    """Return the names that selectors match in Net, without `.weight`; problems are errors."""
    finder = Targets(Net())
    weights = finder.select(targets, exclude)
    assert not finder.problems
    return [weight.name.removesuffix(".weight") for weight in weights]


LINEARS = [f"layers.{i}.{n}" for i in (0, 1) for n in ("query", "key", "up", "down")]


@pytest.mark.parametrize(
    ("targets", "exclude", "names"),
    [
        (["*"], [], [*LINEARS, "conv", "classifier"]),
        (["layers"], [], LINEARS),
        (["layers.*"], [], LINEARS),
        (["layers.1"], [], LINEARS[4:]),
        (["*.query"], [], ["layers.0.query", "layers.1.query"]),
        (["layers.0.query.weight"], [], ["layers.0.query"]),
        (["*.weight"], ["conv", "classifier"], LINEARS),
        (["re:layers\\.\\d\\.(query|key)"], [], ["layers.0.query", "layers.0.key", "layers.1.query", "layers.1.key"]),
        (["re:layers\\.0"], [], LINEARS[:4]),
        (["re:(?:layers|other)\\.[01]\\.(query|up)(_proj)?"], ["layers.0"], ["layers.1.query", "layers.1.up"]),
        (["type:Linear"], ["classifier"], LINEARS),
        (["type:Conv2d"], [], ["conv"]),
        (["type:Block"], ["*.down", "layers.0"], ["layers.1.query", "layers.1.key", "layers.1.up"]),
        (["embed"], [], ["embed"]),
        (["*embed"], [], ["embed"]),
        (["embed.weight", "conv"], [], ["embed", "conv"]),
        (["type:Embedding"], [], ["embed"]),
        (["re:emb.*d"], [], ["embed"]),
        (["re:.*"], ["classifier", "conv"], LINEARS),
        (["layers.?.up", "classifier"], [], ["layers.0.up", "layers.1.up", "classifier"]),
    ],
)
def test_selectors(targets: list[str], exclude: list[str], names: list[str]) -> None:
    assert matched(targets, exclude) == names


NAMES = [name for name, _ in Net().named_modules() if name]
SELECTORS = st.sampled_from(NAMES + [f"{name}.weight" for name in LINEARS]) | st.sampled_from(
    [
        "*",
        "layers.*",
        "*.query",
        "*.weight",
        "layers.?",
        "l*",
        "type:Linear",
        "type:Block",
        "re:layers\\.\\d\\.up",
        "re:.*",
    ]
)


@given(st.lists(SELECTORS, min_size=1, max_size=3), st.lists(SELECTORS, max_size=2))
@examples(200)
def test_targets_are_a_union_less_a_union(targets: list[str], exclude: list[str]) -> None:
    """Whatever a selector means alone, several mean together; order is the model's."""
    model = Net()

    def alone(selector: str) -> set[str]:
        return {weight.name for weight in Targets(model).select([selector])}

    finder = Targets(model)
    found = [weight.name for weight in finder.select(targets, exclude)]
    wanted = set().union(*map(alone, targets)) - set().union(*map(alone, exclude))
    assert found == [
        f"{name}.weight" for name in ["embed", *LINEARS, "conv", "classifier"] if f"{name}.weight" in wanted
    ]
    empty = [s for s in [*targets, *exclude] if not alone(s)]
    assert len([p for p in finder.problems if "everything" not in p.message]) == len(empty)
    for selector in set(targets) & {"layers.*", "*", "type:Linear", "re:.*"}:
        assert not {"embed.weight"} & alone(selector), "a table is never meant by the way"


@pytest.mark.parametrize(
    ("targets", "exclude", "message"),
    [
        ("layer.*", None, "'layer.*' matches nothing in Net: no name has the part 'layer' (did you mean 'layers'?)"),
        ("layers.*.qury", None, "no name has the part 'qury' (did you mean 'query'?)"),
        ("Linear", None, "'Linear' matches no module (did you mean 'type:Linear'?)"),
        ("type:Linaer", None, "'type:Linaer' matches nothing in Net (did you mean 'type:Linear'?)"),
        ("re:layers", "x", "exclude[0]: 'x' matches nothing in Net"),
        ("re:layers.0.que", None, "'re:layers.0.que' matches nothing in Net"),
        ("emb*", None, "'emb*' matches only embeddings, which must be named (`embeddings`, `type:Embedding`)"),
        ("attention", None, "Net has no 'attention' (it has: default, ffn, ffn.up, ffn.down, embeddings, task_head)"),
        ("*.norm", None, "'*.norm' matches only modules without a prunable weight (LayerNorm)"),
        ("layers.*", "layers", "everything that is targeted is excluded"),
    ],
)
def test_selectors_that_match_nothing_are_errors(targets: str, exclude: str | None, message: str) -> None:
    fields = {"targets": f'"{targets}"'} | ({"exclude": f'["{exclude}"]'} if exclude else {})
    with pytest.raises(PlanError) as error:
        Plan.of(recipe(**fields), Net(), total_steps=100)
    assert message in str(error.value)


def test_without_targets_where_nothing_repeats() -> None:
    net = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("one", "two", "three")})
    plan = Plan.of(recipe(targets=""), net, total_steps=100)
    assert [tensor.name for tensor in plan.modifiers[0].tensors] == ["one.weight", "two.weight"]
    assert plan.notes == (
        "prune: nothing repeats in ModuleDict: `default` is every matrix but embeddings and three.weight, the task head",
    )
    with pytest.raises(PlanError, match="ReLU has no matrix that can be pruned"):
        Plan.of(recipe(targets=""), nn.ReLU(), total_steps=100)


def test_the_plan_says_what_will_happen() -> None:
    plan = Plan.of(recipe(targets="layers"), Net(), total_steps=100)
    (modifier,) = plan.modifiers
    assert (modifier.window.begin, modifier.window.end, modifier.window.every) == (2, 10, 2)
    data = json.loads(plan.to_json())
    tensor = data["modifiers"][0]["tensors"][2]
    assert tensor == {
        "name": "layers.0.up.weight",
        "shape": [16, 8],
        "dtype": "float32",
        "elements": 128,
        "target": 0.75,
        "expected_nonzeros": 32,
        "bundle": "layers.0.up.weight",
        "groups": 128,
    }
    facts = {key: data["modifiers"][0][key] for key in ("criterion", "pattern", "scope", "curve", "updates")}
    assert facts == {
        "criterion": "magnitude", "pattern": "unstructured", "scope": "tensor", "curve": "cubic", "updates": 5,
    }  # fmt: skip
    assert data["modifiers"][0]["expected_nonzeros"] == 192
    for text in ("ffn.up", "75.00%", "192", "steps 2 to 10, every 2 (5 updates)"):
        assert text in str(plan)
    assert "layers.0.up.weight" in plan.text(tensors=True)


def test_expected_numbers_count_whole_groups() -> None:
    plan = Plan.of(
        recipe(targets="layers.0", pattern="{type: block, shape: [4, 4]}", sparsity="0.7"), Net(), total_steps=99
    )
    expected = [tensor.nonzeros for tensor in plan.modifiers[0].tensors]
    assert expected == [16, 16, 32, 32]  # 0.7 × 64 → 45 → 3 of 4 blocks; 0.7 × 128 → 90 → 6 of 8
    everywhere = Plan.of(recipe(targets="layers.0", scope="global"), Net(), total_steps=99)
    assert [tensor.nonzeros for tensor in everywhere.modifiers[0].tensors] == [None] * 4
    assert everywhere.modifiers[0].nonzeros == 96


def test_a_plan_on_the_meta_device_is_the_same() -> None:
    with torch.device("meta"):
        skeleton = Net()
    fields = {"targets": "layers", "pattern": "2:4", "sparsity": "0.5"}
    assert (
        Plan.of(recipe(**fields), skeleton, total_steps=9999).to_json()
        == Plan.of(recipe(**fields), Net(), total_steps=9999).to_json()
    )


def test_a_lock_is_unknown_without_weights() -> None:
    plan = Plan.of(recipe(criterion="existing", sparsity="", window=""), Net())
    assert plan.modifiers[0].nonzeros is None
    assert "unknown without weights" in str(plan)


def test_the_plan_can_be_printed_with_rich() -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(Plan.of(recipe(targets="layers"), Net(), total_steps=100))
    text = console.export_text()
    assert "ffn.down" in text
    assert "192" in text
    for part in Plan.of(recipe(targets="layers"), Net(), total_steps=100).parts(tensors=True):
        console.print(part)
    assert "layers.1.down.weight" in console.export_text()


@pytest.mark.parametrize(
    ("fields", "clock", "message"),
    [
        ({"window": "{begin: 10%, end: 50%}"}, {}, "window.begin: '10%' needs total_steps"),
        ({"window": "{begin: 0, end: 1 epoch}"}, {"total_steps": 9}, "window.end: '1 epoch' needs steps_per_epoch"),
        ({"window": "{begin: 10, end: 2000}"}, {"total_steps": 100}, "'2000 steps' lies beyond the stage's 100 steps"),
        (
            {"window": "{begin: 20, end: 20}"},
            {"total_steps": 100},
            "the window is empty: it begins and ends at step 20",
        ),
        (
            {"window": "{begin: 5%, end: 5.1%}"},
            {"total_steps": 100},
            "the window is empty: it begins and ends at step 5",
        ),
        (
            {"window": "{begin: 0, end: 50, every: 50}"},
            {"total_steps": 100},
            "the sparsity would jump: in the 50 steps",
        ),
        ({"window": "{begin: 0, end: 1}"}, {"total_steps": 100}, "the sparsity would jump: in the 1 steps"),
        (
            {"window": "{begin: 0, end: 50, every: 0.1%}"},
            {"total_steps": 100},
            "window.every: '0.1%' of the stage rounds to",
        ),
        (
            {"pattern": "{type: block, shape: [3, 1]}"},
            {"total_steps": 99},
            "blocks of 3×1 do not divide 32 rows × 16 columns",
        ),
        ({"pattern": "1:3"}, {"total_steps": 99, "sparsity": 0.5}, "1:3 does not divide 16 input features"),
    ],
)
def test_plan_errors(fields: dict[str, str], clock: dict[str, int], message: str, mlp: nn.Module) -> None:
    clock.pop("sparsity", None)
    if "1:3" in str(fields):
        fields = {**fields, "sparsity": "0.5"}
    with pytest.raises(PlanError) as error:
        Plan.of(recipe(**fields), mlp, **clock)
    assert message in str(error.value)
    assert "<recipe>:3:" in str(error.value)


def test_a_constant_curve_is_no_cliff(mlp: nn.Module) -> None:
    plan = Plan.of(recipe(sparsity="{to: 0.5, curve: constant}", window="{begin: 5}"), mlp)
    assert list(plan.modifiers[0].window.updates()) == [5]


def test_one_shot_and_locks_have_one_update(mlp: nn.Module) -> None:
    shot = "{to: 0.5, curve: one-shot}"
    assert list(Plan.of(recipe(sparsity=shot, window="{begin: 5}"), mlp).modifiers[0].window.updates()) == [5]
    constant = Plan.of(recipe(sparsity="{to: 0.5, curve: constant}", window="{begin: 5, end: 9, every: 2}"), mlp)
    assert list(constant.modifiers[0].window.updates()) == [5, 7, 9]
    for fields in ({"sparsity": shot}, {"sparsity": "", "criterion": "existing"}):
        with pytest.raises(PlanError, match="has one update, at `begin`: leave `end` out"):
            Plan.of(recipe(window="{begin: 5, end: 9}", **fields), mlp)


def test_all_problems_are_reported_at_once(mlp: nn.Module) -> None:
    both = Recipe.parse(
        "version: 1\nmodifiers:\n"
        "  - {type: prune, targets: nothing, sparsity: 0.5, window: {begin: 5, end: 30%}}\n"
        '  - {type: prune, targets: "0", pattern: {type: block, shape: [5, 5]}, sparsity: 0.5}\n',
        "two.yaml",
    )
    with pytest.raises(PlanError) as error:
        Plan.of(both, mlp, total_steps=10)
    assert [str(problem).partition(": ")[0] for problem in error.value.problems] == [
        "two.yaml:3:19", "two.yaml:3:61", "two.yaml:4:33",
    ]  # fmt: skip
    assert [problem.path for problem in error.value.problems] == [
        "modifiers[0].targets[0]",
        "modifiers[0].window.begin",
        "modifiers[1].pattern",
    ]


TWO = """\
version: 1
stages:
  - name: first
    length: {length}
    modifiers: [{{type: prune, targets: {one}, sparsity: 0.5, window: {{begin: 0, end: {end}}}}}]
  - name: second
    modifiers: [{{type: prune, targets: "*", sparsity: {{from: {start}, to: 0.8}}, window: {{begin: {begin}, end: 30}}}}]
"""


def two(length: str = "50", one: str = '"0"', end: int = 50, start: str = "0.5", begin: int = 0) -> Recipe:
    """Return a recipe of two stages, both pruning the first layer."""
    return Recipe.parse(TWO.format(length=length, one=one, end=end, start=start, begin=begin))


def test_stages_are_laid_end_to_end(mlp: nn.Module) -> None:
    plan = Plan.of(two(length="40%", end=40), mlp, total_steps=200)
    assert [(s.name, s.begin, s.end) for s in plan.stages] == [("first", 0, 80), ("second", 80, 200)]
    assert (plan.modifiers[1].window.begin, plan.modifiers[1].window.end) == (80, 110)
    assert [plan.stage_at(step) for step in (0, 79, 80, 199, 200)] == ["first", "first", "second", "second", "second"]


@pytest.mark.parametrize(
    ("recipe_", "total", "message"),
    [
        (
            two(start="0.2"),
            200,
            "sparsity would fall from 0.5 to 0.2 at step 50; write `from: 0.5` or `from: existing`",
        ),
        (two(length="200"), 200, "nothing of the 200 steps is left for this stage"),
        (two(length="10%"), None, "'10%' needs total_steps"),
        (two(length="0.1%", end=1), 200, "'0.1%' rounds to no step"),
    ],
)
def test_stages_that_do_not_fit(recipe_: Recipe, total: int | None, message: str, mlp: nn.Module) -> None:
    with pytest.raises(PlanError) as error:
        Plan.of(recipe_, mlp, total_steps=total)
    assert message in str(error.value)


def test_two_modifiers_on_one_tensor_at_one_time(mlp: nn.Module) -> None:
    text = "version: 1\nmodifiers:\n" + "".join(
        f'  - {{type: prune, targets: "{t}", sparsity: 0.5, window: {{begin: {b}, end: {e}}}}}\n'
        for t, b, e in [("0", 0, 20), ("2", 0, 20), ("*", 10, 30)]
    )
    with pytest.raises(PlanError) as error:
        Plan.of(Recipe.parse(text), mlp, total_steps=100)
    assert [p.message for p in error.value.problems] == [
        "prune acts on 0.weight at the same time",
        "prune-2 acts on 2.weight at the same time",
    ]


def test_touching_windows_are_no_overlap(mlp: nn.Module) -> None:
    Plan.of(two(), mlp, total_steps=200)
    Plan.of(two(start="existing"), mlp, total_steps=200)


@pytest.mark.parametrize(
    ("clock", "message"),
    [
        ({"epochs": 3}, "steps_per_epoch is needed with epochs"),
        ({"epochs": 3, "steps_per_epoch": 10, "total_steps": 29}, "total_steps is 29, but 3 epochs of 10 steps are 30"),
        ({"total_steps": 0}, "total_steps must be a whole number of at least 1, got 0"),
        ({"total_steps": 10.5}, "total_steps must be a whole number of at least 1, got 10.5"),
        ({"steps_per_epoch": True}, "steps_per_epoch must be a whole number"),
    ],
)
def test_clocks_that_cannot_be(clock: dict[str, int], message: str, mlp: nn.Module) -> None:
    with pytest.raises(PlanError, match=message.replace("(", "\\(")):
        Plan.of(recipe(), mlp, **clock)


def test_tied_weights_are_one_tensor() -> None:
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
    model["b"].weight = model["a"].weight
    plan = Plan.of(recipe(targets='"b"'), model, total_steps=100)
    assert [tensor.name for tensor in plan.modifiers[0].tensors] == ["a.weight"]
    assert plan.notes == ("a.weight is the same tensor as b.weight: both have one mask",)
    with pytest.raises(PlanError, match=r"prune acts on a.weight at the same time"):
        Plan.of(
            Recipe.parse(
                "version: 1\nmodifiers:\n"
                "  - {type: prune, targets: a, sparsity: 0.5}\n  - {type: prune, targets: b, sparsity: 0.5}\n"
            ),
            model,
            total_steps=100,
        )


def test_uninitialised_weights_are_refused() -> None:
    with pytest.raises(PlanError, match=r"0.weight: is not initialised yet; run the model once before"):
        Plan.of(recipe(), nn.Sequential(nn.LazyLinear(3)), total_steps=100)
