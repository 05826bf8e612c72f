"""`sparsify train --resume --allow-changed-recipe`: a run that goes on otherwise than it was begun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsify.errors import StateError
from sparsify.train.run import run
from tests.commands import contents, said
from tests.train.test_train import interrupted, recipe, settings

pytestmark = pytest.mark.usefixtures("quiet_libraries")


def test_another_recipe_wants_a_flag(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    interrupted(place, out, 9, monkeypatch)
    before = contents(out)
    with pytest.raises(
        StateError, match=r"started with other settings; .* or add --allow-changed-recipe[\s\S]*  recipe: "
    ):
        run(settings(place), recipe(0.9), out, resume=True)
    assert contents(out) == before
    with pytest.raises(StateError, match=r"or another --out:\n[\s\S]*  lr: 0.003 then"):
        run(settings(place, lr=1e-3), recipe(0.9), out, resume=True, allow_changed_recipe=True)
    for other in (None, recipe()):
        with pytest.raises(StateError, match="recipe: "):
            run(settings(place), None, out, resume=True, allow_changed_recipe=other is None)
    assert contents(out) == before
    report = run(settings(place), recipe(0.9), out, resume=True, allow_changed_recipe=True)
    assert report["density"]["targeted"]["sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert report["recipe"]["sha256"] == recipe(0.9).resolve().sha256


@pytest.mark.parametrize("sparse", [True, False])
def test_a_longer_training_wants_a_flag(
    place: Path, tmp_path: Path, sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows in percent are those of the new length; a finished run goes on if its checkpoints were kept."""
    out = tmp_path / "out"
    given = recipe() if sparse else None
    run(settings(place, keep_checkpoints=True), given, out)
    name = json.loads((out / "run.json").read_text())["run"]
    with pytest.raises(StateError, match="is finished, there is nothing to resume"):
        run(settings(place), given, out, resume=True)
    with pytest.raises(StateError, match=r"add --allow-changed-recipe .*:\n  epochs: 2 then, 4 now"):
        run(settings(place, epochs=4), given, out, resume=True)
    report = run(settings(place, epochs=4), given, out, resume=True, allow_changed_recipe=True)
    assert report["training"]["steps"] == 48
    assert json.loads((out / "run.json").read_text())["run"] == name
    if sparse:
        assert report["plan"]["modifiers"][0]["end"] == round(0.6 * 48)
        assert report["density"]["targeted"]["sparsity"] == pytest.approx(0.75, abs=1e-3)
    with pytest.raises(StateError, match="its checkpoints are gone, which --keep-checkpoints would have kept"):
        run(settings(place, epochs=6), given, out, resume=True, allow_changed_recipe=True)


def test_a_shorter_training_ends_no_earlier_than_its_checkpoint(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    interrupted(place, out, 14, monkeypatch)
    before = contents(out)
    with pytest.raises(
        StateError, match="checkpoint-14 is beyond the end of this training, step 12: give more --epochs"
    ):
        run(settings(place, epochs=1), recipe(), out, resume=True, allow_changed_recipe=True)
    assert contents(out) == before


def test_a_change_that_the_manager_refuses_changes_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of the run is that of before until the state is taken up."""
    from sparsify import Manager

    out = tmp_path / "out"
    interrupted(place, out, 9, monkeypatch)
    before = contents(out)

    def refuse(self: Manager, state: Any, **_: Any) -> None:
        raise StateError("no (allow_changed_recipe=True continues anyway)")

    with monkeypatch.context() as patch:
        patch.setattr(Manager, "load_state_dict", refuse)
        with pytest.raises(StateError, match="--allow-changed-recipe continues anyway"):
            run(settings(place), recipe(0.9), out, resume=True, allow_changed_recipe=True)
    assert contents(out) == before
    run(settings(place), recipe(), out, resume=True)


def test_a_run_that_went_on_otherwise_is_resumed_under_what_it_went_on_with(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its first new checkpoint: the flag is asked for again, in the words of the command line."""
    from sparsify.train.keeper import Keeper

    out = tmp_path / "out"
    interrupted(place, out, 9, monkeypatch)

    def die(self: Keeper, args: Any, state: Any, control: Any, **_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "on_step_end", die)
        with pytest.raises(KeyboardInterrupt):
            run(settings(place), recipe(0.9), out, resume=True, allow_changed_recipe=True)
    with pytest.raises(StateError, match="another recipe .--allow-changed-recipe continues anyway"):
        run(settings(place), recipe(0.9), out, resume=True)
    run(settings(place), recipe(0.9), out, resume=True, allow_changed_recipe=True)


def test_the_flag_on_the_command_line(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    wrong = said(place, out, "--allow-changed-recipe")
    assert wrong.exit_code == 2
    assert "use it with --resume" in " ".join(wrong.stderr.replace("│", " ").split())
    interrupted(place, out, 9, monkeypatch)
    done = said(place, out, "--epochs", "3", "--resume", "--allow-changed-recipe")
    assert done.exit_code == 0, done.stderr
    assert json.loads((out / "report.json").read_text())["training"]["steps"] == 36
