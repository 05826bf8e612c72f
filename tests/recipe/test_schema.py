"""The JSON Schema accepts and rejects what pydantic does, but for what it says that it cannot see."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsify import Recipe, RecipeError
from sparsify.recipe.library import BUILT_IN, names
from sparsify.recipe.nodes import plain
from sparsify.recipe.reader import read_text
from sparsify.recipe.schema import FILE, ONLY_PYDANTIC, recipe_schema, schema_text
from sparsify.recipe.writer import write
from tests.drawn import examples
from tests.recipe.test_bad_recipes import CASES
from tests.recipe.test_recipe import FULL

ROOT = Path(__file__).parents[2]

BEYOND_A_SCHEMA = {
    "distill-nothing", "distill-hardness", "distill-beta", "distill-temperature", "distill-backwards", "distill-layers",
    "admm-criterion", "admm-penalty",
    "layers-backwards", "scope-floor-above-ceiling", "scope-ceiling-below-target", "row-scope-columns", "lock-n-m",
    "sparsity-falls", "existing-with-sparsity", "missing-sparsity", "modifier-without-fields",
    "nm-keeps-all", "nm-more-than-all", "nm-too-sparse",
    "targets-broken-regex", "targets-doubtful-regex", "targets-possessive-regex", "targets-back-reference", "targets-look-ahead",
    "targets-atomic-group", "targets-many-repeats", "targets-nested-repeats", "targets-huge-regex",
    "window-backwards", "window-backwards-steps", "window-every-too-long", "window-every-too-long-for-the-rest",
    "window-beyond-its-stage", "window-begins-beyond-its-stage", "penalty-backwards", "fill-beyond-its-stage", "penalty-beyond-its-stage",
    "stages-beyond-the-whole", "stages-that-leave-nothing",
    "multistep-that-falls", "stages-of-one-name", "two-open-stages",
    "variable-out-of-bounds", "variable-bounds-crossed", "variable-not-a-choice", "variable-wrong-type",
    "variable-string-with-bounds",
    "expression-unknown-variable", "expression-syntax", "expression-empty", "expression-call", "expression-import",
    "expression-attribute", "expression-index", "expression-lambda", "expression-comparison",
    "expression-huge-power", "expression-huge-product", "expression-huge-exponent", "expression-division-by-zero",
    "expression-complex", "expression-string-arithmetic", "expression-round-arguments", "expression-max-of-nothing",
    "expression-gives-bad-value",
    "gated-without-amount", "threshold-of-l0", "penalty-role", "penalty-steered-with-ramp", "movement-project", "lock-latent",
    "soft-one-shot", "soft-rows", "l0-n-m", "gated-with-two-amounts", "threshold-zero", "threshold-falls",
    "penalty-of-magnitude", "penalty-of-hard-movement", "finish-without-sparsity",
    "extends-unknown", "extends-missing-file", "extends-absolute", "extends-traversal", "extends-traversal-yaml",
}  # fmt: skip


@cache
def validator() -> Any:
    """Return the validator of the generated schema."""
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def accepts(data: Any) -> bool:
    """Whether the schema accepts plain data."""
    return bool(validator().is_valid(data))


def problems(data: Any) -> str:
    """Return what pydantic says of the same data; empty if it is valid."""
    try:
        Recipe.parse(write(data))
    except RecipeError as error:
        return str(error)
    return ""


def test_the_schema_in_the_repository_is_fresh() -> None:
    assert (ROOT / "schemas" / FILE).read_text(encoding="utf-8") == schema_text(), "run `make schema`"


def test_what_a_schema_cannot_see_is_listed() -> None:
    comment = recipe_schema()["$comment"]
    assert all(item in comment for item in ONLY_PYDANTIC)


@pytest.mark.parametrize(("name", "rest"), [(name, rest) for name, _, rest in CASES], ids=[c[0] for c in CASES])
def test_both_reject_the_bad(name: str, rest: str) -> None:
    text = rest.partition("--- expect\n")[0]
    try:
        data = plain(read_text(text))
    except RecipeError:
        return  # not YAML to begin with
    assert accepts(data) == (name in BEYOND_A_SCHEMA)


def test_both_accept_the_good() -> None:
    assert accepts(plain(read_text(FULL)))
    assert accepts(Recipe.parse(FULL).resolve().source())
    for label, path in names().values():
        if label == "built in":
            assert accepts(plain(read_text(path.read_text(encoding="utf-8")))), path
    assert BUILT_IN


LEARNED = """\
version: 1
modifiers:
  - {type: prune, targets: a, criterion: {type: movement, init: zero, max_norm: 1}, sparsity: 0.9, biases: with-rows}
  - {type: prune, targets: b, criterion: soft-movement, threshold: 0.2, penalty: 400}
  - {type: prune, targets: c, criterion: soft-movement, threshold: {from: 0.05, to: 0.1}, penalty: {from: 4, to: 1, end: 50%}}
  - {type: prune, targets: d, criterion: hard-concrete, sparsity: 0.9, penalty: {roles: {ffn: 2}}, finish: threshold}
  - {type: prune, targets: e, sparsity: 0.9, masking: latent}
  - {type: penalty, targets: f, strength: 0.1, norm: l2}
  - {type: penalty, targets: f, strength: {from: 1, to: 0}, pattern: row}
  - {type: fill, start: noise, begin: 90%}
  - {type: distill, logits: {temperature: 2, weight: {from: 1, to: 0}}, hidden: {layers: [[0, 5]]}, hardness: 0.9, end: 50%}
  - {type: distill, teacher: self, terms: [{type: logits, loss: jsd, beta: 0.5}, {type: attention, loss: kl}]}
  - {type: prune, targets: g, sparsity: {to: 0.9, curve: constant}, masking: admm, penalty: 0.01, window: {end: 80%}}
"""


def test_both_accept_learned_masks() -> None:
    assert accepts(plain(read_text(LEARNED)))
    recipe = Recipe.parse(LEARNED)
    assert accepts(recipe.resolve().source())
    assert Recipe.parse(recipe.dump()) == recipe


LEAVES = st.sampled_from(
    [None, True, False, 0, 1, 2, -1, 1.0, 2.0, 0.5, 1.5, -0.5, "", "x", "2:4", "0:4", "10%", "5 steps", "0%", "0 steps",
     "3 epochs", "101%", "existing", "magnitude", "global", "tensor", "cubic", "block", "prune", "unstructured",
     "${sparsity}", [], ["x"], [1, 2], {}, {"type": "x"}, {"to": 0.5}, {"type": "block", "shape": [1, 2]}]
)  # fmt: skip


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every node."""
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, value in children for place in places(value, (*path, key)))]


PLACES = [place for place in places(plain(read_text(FULL))) if place]


@given(st.data())
@examples(1500)
def test_both_agree_on_mutations(choice: st.DataObject) -> None:
    """A recipe changed in one place: the schema and the models accept it, or refuse it, together."""
    place, how = choice.draw(st.sampled_from(PLACES)), choice.draw(st.sampled_from(["replace", "delete", "add"]))
    leaf = choice.draw(LEAVES)
    data = copy.deepcopy(plain(read_text(FULL)))
    node = data
    for key in place[:-1]:
        node = node[key]
    if how == "delete":
        del node[place[-1]]
    elif how == "add" and isinstance(node, dict):
        node["extra"] = leaf
    else:
        node[place[-1]] = leaf
    said = problems(data)
    if not accepts(data):
        assert said, json.dumps(data)
    elif said:
        about_a_value = place[0] == "variables" or "${" in str(leaf)
        listed = all(any(kind in line for kind in LISTED) for line in said.splitlines())
        assert about_a_value or listed, said


LISTED = (
    "unknown variable", "is not a number", "sparsity falls", "keeps everything", "a sparsity of at most",
    "takes no sparsity", "missing key 'sparsity'", "two stages", "only one stage", "no recipe is called",
    "can extend by name only", "has no bounds", "is above max", "must be at most 0.99", "must be one of",
    "after its end at", "lies beyond the stage", "less often than once", "of the training",
    "run backwards", "is above the ceiling", "ranks what is inside a row", "it cannot make",
)  # fmt: skip
"""The kinds of `ONLY_PYDANTIC`, as they are worded."""
