"""Several processes begin with one model, and are found out where they part."""

from __future__ import annotations

import re

import pytest

from tests.processes import in_two

WAYS = ("before", "after", "alone", "tampered", "self", "shapes")


@pytest.fixture(scope="module")
def said() -> dict[str, list[str]]:
    """What each of two processes printed, by way."""
    done = in_two("ddp_agreement", *WAYS)
    assert done.returncode == 0, done.stderr
    found = sorted(re.findall(r"^(\w+) ([01]): (.*)$", done.stdout, re.MULTILINE))
    return {way: [text for each, _, text in found if each == way] for way in WAYS}


def test_ddp_before_and_after_apply_give_one_model(said: dict[str, list[str]]) -> None:
    """Each process begins with other weights: all take those of the first, and say so where DDP has not done it."""
    (one, notes), (other, _) = (text.split() for text in said["before"])
    assert one == other
    assert notes == "0"
    assert said["after"] == [f"{one} 1"] * 2


def test_a_copy_of_the_student_is_that_of_the_first_process(said: dict[str, list[str]]) -> None:
    assert len(set(said["self"])) == 1
    assert said["self"][0].endswith(" 1")


@pytest.mark.parametrize("way", ["alone", "tampered"])
def test_processes_that_part_are_stopped_together(said: dict[str, list[str]], way: str) -> None:
    expected = "HookError: the weight 0.weight differs between process 0 and process 1 after step 10: "
    assert all(text.startswith(expected) for text in said[way])
    assert len(said[way]) == 2


def test_models_of_two_shapes_are_refused_before_anything_changes(said: dict[str, list[str]]) -> None:
    assert [text.split(" in process")[0] for text in said["shapes"]] == [
        "PlanError: 0.weight has another shape, or is missing,"
    ] * 2
