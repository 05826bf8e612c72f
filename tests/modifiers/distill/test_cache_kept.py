"""A `cache` in folders and states."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsify import Manager, PlanError, StateError
from tests.modifiers.distill.cached import Asked, lines, rows_of
from tests.modifiers.distill.students import apply, batch, bert, gpt, step


def trained(folder: Path | None, rows: list[int], *, teacher: Any = None, steps: int = 2, number: int = 0) -> list[int]:
    """Train, and return how many rows the teacher was asked about in each of its forwards."""
    student, teacher = bert(), teacher or bert(seed=1)
    asked = Asked(teacher)
    given = {"teacher_cache": folder} if folder else {}
    manager, optimizer = apply(student, "logits: {}, cache: {}", teacher=teacher, steps=steps, **given)
    for _ in range(steps):
        step(manager, student, optimizer, rows_of(batch(number), rows))
    manager.finalize()
    return asked.rows


def test_a_folder_serves_the_next_run(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert trained(folder, [0, 1]) == [2]
    (path,) = folder.iterdir()
    assert trained(folder, [0, 1]) == []
    first = path.read_bytes()
    assert trained(folder, [0, 1, 2]) == [1]
    assert path.read_bytes() != first
    assert trained(folder, [2, 1, 0, 2]) == []
    assert trained(folder, [0, 1], teacher=bert(seed=2)) == [2]
    assert len(list(folder.iterdir())) == 2, "another teacher has a file of its own"
    assert trained(folder, [0, 1, 2]) == []
    assert not [each for each in folder.iterdir() if each.suffix != ".safetensors"]


def test_a_broken_off_training_keeps_what_was_said(tmp_path: Path) -> None:
    student, teacher = bert(), bert(seed=1)
    manager, optimizer = apply(student, "logits: {}, cache: {}", teacher=teacher, steps=9, teacher_cache=tmp_path)
    step(manager, student, optimizer, batch())
    manager.detach()
    assert trained(tmp_path, [0, 1, 2, 3]) == []


def test_a_folder_that_cannot_be_written_to_ends_no_training(tmp_path: Path) -> None:
    student, teacher = bert(), bert(seed=1)
    folder = tmp_path / "cache"
    manager, optimizer = apply(student, "logits: {}, cache: {}", teacher=teacher, steps=2, teacher_cache=folder)
    step(manager, student, optimizer, batch())
    folder.write_text("in the way")
    with pytest.raises(StateError, match="cannot be written"):
        manager.state_dict()
    with pytest.warns(UserWarning, match="the teacher's answers are not kept: .*cannot be written"):
        step(manager, student, optimizer, batch())
    with pytest.warns(UserWarning, match="the teacher's answers are not kept"):
        manager.finalize()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", r"teacher-.*\.safetensors cannot be read: .*; remove it, or choose another folder"),
        ("empty", r"cannot be read"),
        ("a folder", r"cannot be read"),
        ("another teacher", r"is of another teacher than its name says"),
        ("no metadata", r"is not a cache of a teacher's answers that sparsify wrote"),
        ("nan", r"rows-3\.logits: holds values that are not finite"),
        ("a wrong dtype", r"rows-3\.logits: expected 4×3 of float32, got 4×3 of float16"),
        ("beyond", r"rows-3\.begins: values beyond the 4 that there are"),
        ("counts", r"rows-3\.counts: a sample has one row of logits"),
        ("missing", r"rows-3\.keys: is missing"),
        ("unknown", r"columns-3: is not known here"),
        ("more", r"rows-3\.extra: is not known here"),
    ],
)
def test_a_damaged_file_is_named_and_left(tmp_path: Path, damage: str, message: str) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    trained(tmp_path, [0, 1, 2, 3])
    (path,) = tmp_path.iterdir()
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in list(file.keys())}, file.metadata()
    if damage == "nan":
        tensors["rows-3.logits"][1, 1] = torch.nan
    elif damage == "a wrong dtype":
        tensors["rows-3.logits"] = tensors["rows-3.logits"].half()
    elif damage == "beyond":
        tensors["rows-3.begins"][2] = 4
    elif damage == "counts":
        tensors["rows-3.counts"][2] = 0
    elif damage == "missing":
        del tensors["rows-3.keys"]
    elif damage == "unknown":
        tensors["columns-3.keys"] = tensors["rows-3.keys"]
    elif damage == "more":
        tensors["rows-3.extra"] = tensors["rows-3.keys"].clone()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    elif damage in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else 200])
    elif damage == "another teacher":
        save_file(tensors, path, {**metadata, "teacher": "0" * 64})
    elif damage == "no metadata":
        save_file(tensors, path)
    else:
        save_file(tensors, path, metadata)
    before = None if damage == "a folder" else path.read_bytes()
    with pytest.raises(StateError, match=message) as raised:
        trained(tmp_path, [0])
    assert str(path) in str(raised.value)
    assert before is None or path.read_bytes() == before


def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for given, message in ((3, "must be a folder, got a int"), (tmp_path / "file", "is no folder")):
        with pytest.raises(PlanError, match=message):
            apply(bert(), "logits: {}, cache: {}", teacher=bert(seed=1), teacher_cache=given)
    with pytest.raises(PlanError, match="unknown binding 'teacher_cache'"):
        apply(bert(), "logits: {}", teacher=bert(seed=1), teacher_cache=tmp_path)


# ---------------------------------------------------------------------- states


def begun(own: bool, kind: str, folder: Path | None, seed: int = 0) -> tuple[Any, Manager, Any]:
    student = gpt(seed) if kind == "language" else bert(seed=seed)
    more = {} if own else {"teacher": gpt(1) if kind == "language" else bert(seed=1)}
    if folder is not None:
        more["teacher_cache"] = folder
    body = "logits: {temperature: 2}, cache: {}" + (", teacher: self" if own else "")
    manager, optimizer = apply(student, body, "  - {type: prune, sparsity: 0.5}\n", steps=8, **more)
    return student, manager, optimizer


@pytest.mark.parametrize("kept", ["in memory", "in a folder"])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", ["classification", "language"])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path, kind: str, own: bool, kept: str) -> None:
    """Logits made in another batch differ in their last bits; those of the first part are the ones that count."""
    folder = tmp_path / "cache" if kept == "in a folder" else None
    inputs = [lines(number) if kind == "language" else batch(number) for number in range(2)]
    whole = {name: torch.cat([each[name] for each in inputs]) for name in inputs[0]}
    order = torch.Generator().manual_seed(0)
    batches = [rows_of(whole, torch.randperm(8, generator=order)[:5].tolist()) for _ in range(8)]
    student, manager, optimizer = begun(own, kind, folder)
    saved = []
    for each in batches:
        saved.append([copy.deepcopy(part.state_dict()) for part in (student, optimizer, manager)])
        step(manager, student, optimizer, each)
    for stop in (1, 3, 6):
        other, second, again = begun(own, kind, folder, seed=7 if own else 0)
        torch.save(saved[stop], tmp_path / "state.pt")
        states = torch.load(tmp_path / "state.pt", weights_only=True)
        for part, state in zip((other, again, second), states, strict=True):
            part.load_state_dict(state)
        for each in batches[stop:]:
            step(second, other, again, each)
        for name, value in student.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), (name, stop)
        counts = [each._runs[0].report()["cache"] for each in (manager, second)]
        assert counts[0]["samples"] == counts[1]["samples"]
        if folder is None:
            assert counts[0] == counts[1]


def test_a_state_replaces_what_was_kept() -> None:
    student, manager, optimizer = begun(False, "classification", None)
    empty = copy.deepcopy(manager.state_dict())
    step(manager, student, optimizer, batch())
    full = copy.deepcopy(manager.state_dict())
    for state, samples in ((empty, 0), (full, 4), (empty, 0)):
        manager.load_state_dict(state, verify_weights=False)
        assert manager._runs[0].report() == {} or manager._runs[0].report()["cache"]["samples"] == samples
        assert len(manager._runs[0].cache.answers) == samples


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"misses": -1}, r"cache\.misses: expected a whole number"),
        ({"again": [1]}, r"cache\.again: expected two numbers"),
        ({"more": 1}, r"cache\.more: is not known here"),
        ({"answers": {"rows-3": {}}}, r"rows-3\.keys: is missing"),
        ({"answers": {"rows-0": {}}}, r"answers\.rows-0: is not known here"),
        ({"answers": 3}, r"cache\.answers: expected a mapping"),
    ],
)
def test_states_that_are_wrong(change: dict[str, Any], message: str) -> None:
    student, manager, optimizer = begun(False, "classification", None)
    step(manager, student, optimizer, batch())
    state = copy.deepcopy(manager.state_dict())
    state["modifiers"]["distill"]["cache"].update(change)
    with pytest.raises(StateError, match=message):
        manager.load_state_dict(state)
    assert len(manager._runs[0].cache.answers) == 4
