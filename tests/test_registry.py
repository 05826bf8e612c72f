"""Families of specs: who may join them, and what is said of a word that is in none."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from torch import Tensor

from sparsify import Recipe, RecipeError, SparsifyError
from sparsify.criteria import Criterion
from sparsify.criteria.base import Place
from sparsify.errors import did_you_mean
from sparsify.patterns import Pattern
from sparsify.scopes.base import BundleFacts, absent_roles
from sparsify.spec import Family


@pytest.fixture(autouse=True)
def _gone_after_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    for root in (Criterion, Pattern):
        monkeypatch.setattr(root, "_members", dict(root.members()))


def made(module: str, name: str, annotation: Any, default: Any = ..., **members: Any) -> Any:
    """Define a criterion in a module of this name."""
    space = {"__module__": module, "__qualname__": name, "__annotations__": {"type": annotation}, **members}
    space |= {} if default is ... else {"type": default}
    return type(name, (Criterion,), space)


def recipe(criterion: str) -> Recipe:
    return Recipe.parse(
        f"version: 1\nmodifiers:\n  - {{type: prune, criterion: {criterion}, sparsity: 0.5, window: {{begin: 0}}}}\n"
    )


@pytest.mark.parametrize("name", ["Magnitude", "Other"])
def test_a_plug_in_cannot_overwrite_one_of_ours(name: str) -> None:
    """The same name of the class is no excuse."""
    before = Criterion.members()["magnitude"]
    sentence = rf"'magnitude': sparsify\.criteria\.magnitude\.Magnitude and my_plugin\.{name}"
    with pytest.raises(SparsifyError, match=sentence):
        made("my_plugin", name, Literal["magnitude"], "magnitude")
    assert Criterion.members()["magnitude"] is before


def test_two_plug_ins_cannot_share_a_type_and_one_may_be_defined_again() -> None:
    first = made("a", "Cubed", Literal["cubed"], "cubed")
    again = made("a", "Cubed", Literal["cubed"], "cubed")
    assert Criterion.members()["cubed"] is again is not first
    with pytest.raises(SparsifyError, match=r"'cubed': a\.Cubed and b\.Cubed; rename the second"):
        made("b", "Cubed", Literal["cubed"], "cubed")


def test_a_module_may_be_reloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reloaded_plugin.py").write_text(
        "from typing import Literal\nfrom sparsify.criteria import Criterion\n\n\n"
        'class Mine(Criterion):\n    type: Literal["reloaded"] = "reloaded"\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("reloaded_plugin")
    importlib.reload(module)
    assert Criterion.members()["reloaded"] is module.Mine
    del sys.modules["reloaded_plugin"]


def test_a_member_that_inherits_its_type_is_told_to_take_its_own() -> None:
    from sparsify.criteria.magnitude import Magnitude

    with pytest.raises(SparsifyError, match=r"'magnitude': .*\.Magnitude and mine\.Mine"):
        type("Mine", (Magnitude,), {"__module__": "mine", "__qualname__": "Mine"})


@pytest.mark.parametrize(
    ("annotation", "default", "sentence"),
    [
        (Literal["cubed"], ..., r"`type` must have its word as default: `type: Literal\['cubed'\] = 'cubed'`"),
        (Literal["cubed"], "cube", "`type` must have its word as default"),
        (str, "cubed", r"write `type: Literal\['cubed'\] = 'cubed'`"),
        (Literal["a", "b"], "a", "has one type, a word, and this has 'a', 'b'"),
        (Literal[3], 3, "has one type, a word, and this has 3"),
        (Literal["Cubed"], "Cubed", "the type 'Cubed' must be small letters"),
        (Literal["my cubed"], "my cubed", "must be small letters"),
        (Literal["cubed "], "cubed ", "must be small letters"),
        (Literal["сubed"], "сubed", "must be small letters"),
        (Literal["[red]"], "[red]", "must be small letters"),
        (Literal[""], "", "must be small letters"),
        ("Missing['cubed']", "cubed", "the annotation of a field cannot be resolved"),
    ],
)
def test_a_type_that_no_recipe_could_write_is_refused(annotation: Any, default: Any, sentence: str) -> None:
    before = Criterion.members()
    with pytest.raises(SparsifyError, match=rf"plugin\.Cubed: .*{sentence}|plugin\.Cubed: {sentence}"):
        made("plugin", "Cubed", annotation, default)
    assert Criterion.members() == before


class NoSchema:
    """What pydantic can hold but not describe."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)


def test_fields_that_cannot_be_described_or_built_are_refused() -> None:
    with pytest.raises(SparsifyError, match=r"test_registry\..*Odd: its fields cannot be used: .*NoSchema"):

        class Odd(Criterion):
            type: Literal["odd"] = "odd"
            field: NoSchema = NoSchema()

    with pytest.raises(SparsifyError, match=r"test_registry\..*Small: its fields cannot be used: Value error, no$"):

        class Small(Criterion):
            type: Literal["small"] = "small"

            def model_post_init(self, context: Any) -> None:
                raise ValueError("no")

    assert not {"odd", "small"} & Criterion.members().keys()


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("block", "unknown criterion 'block': that is a pattern; there are existing, hard-concrete, magnitude"),
        ("{type: block}", "unknown criterion 'block': that is a pattern"),
        ("MAGNITUDE", r"unknown criterion 'MAGNITUDE' \(did you mean 'magnitude'\?\)"),
        ("'magnitude '", r"'magnitude ' \(did you mean 'magnitude'\? What is written has a space around it\)"),
        ("hard_concrete", r"did you mean 'hard-concrete'\?\)"),
        ('"m\u0430gnitude"', r"did you mean 'magnitude'\? What is written has the letter U\+0430, cyrillic"),
        ('"magni\u200btude"', r"did you mean 'magnitude'\? What is written has the letter U\+200B"),
        ('"\uff4dagnitude"', r"did you mean 'magnitude'\? What is written has the letter U\+FF4D"),
        ("cubed", r"unknown criterion 'cubed' \(one of: existing, .*\)"),
    ],
)
def test_a_word_that_is_refused_is_not_suggested(written: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        recipe(written)


def test_the_word_itself_is_never_suggested() -> None:
    assert did_you_mean("cubed", ["cubed"]) == ""
    assert did_you_mean("cubed", ["cubed", "cube"]) == " (did you mean 'cube'?)"


def test_every_type_of_ours_is_one_that_may_be() -> None:
    for root in Family.__subclasses__():
        if root._is_root() and root.__module__.startswith("sparsify."):
            assert all(member.model_fields["type"].default == tag for tag, member in root.members().items())


def test_roles_that_no_tensor_has() -> None:
    facts = [BundleFacts(4, 4, role="attention"), BundleFacts(4, 4, role="")]
    assert absent_roles(["attention", "ffn"], facts) == ["ffn"]
    assert absent_roles([], facts) == []


def test_a_plug_in_works_as_ours() -> None:
    class Cubed(Criterion):
        type: Literal["cubed"] = "cubed"
        keeps_zeros: ClassVar[bool] = False

        def score(self, weight: Tensor, place: Place) -> Tensor:
            return weight.abs() ** 3

    assert "cubed" in recipe("cubed").dump()
