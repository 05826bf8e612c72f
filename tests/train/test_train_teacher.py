"""`sparsify train --teacher`, and what the teacher has said from run to run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsify import PlanError, Recipe
from sparsify.outcome import REPORT
from sparsify.report.findings import findings
from sparsify.train.run import run
from tests.train.test_train import same, settings

pytestmark = pytest.mark.usefixtures("quiet_libraries")

DISTIL = """
version: 1
modifiers:
  - {type: distill, logits: {temperature: 2}, hardness: 0.9CACHE}
  - {type: prune, sparsity: 0.5, window: {every: 1 step}}
"""


def recipe(cache: str = ", cache: {}") -> Recipe:
    return Recipe.parse(DISTIL.replace("CACHE", cache))


def counts(folder: Path) -> Any:
    return json.loads((folder / REPORT).read_text())["modifiers"]["distill"]["cache"]


def test_a_cache_serves_the_next_run(place: Path, tmp_path: Path) -> None:
    """Stopped or whole, with the folder or in memory: the model is the same; the next run asks the teacher nothing."""
    run(settings(place), None, tmp_path / "teacher")
    asked = settings(place, teacher=str(tmp_path / "teacher"))
    kept = replace(asked, teacher_cache=str(tmp_path / "cache"))
    run(asked, recipe(), tmp_path / "memory")
    run(kept, recipe(), tmp_path / "first")
    same(tmp_path / "memory", tmp_path / "first")
    first = counts(tmp_path / "first")
    assert first["misses"] == first["samples"] > 0
    assert first["hits"] == first["misses"], "two epochs"
    run(kept, recipe(), tmp_path / "second")
    assert counts(tmp_path / "second") == {**first, "misses": 0, "hits": 2 * first["hits"]}
    same(tmp_path / "first", tmp_path / "second")
    report = json.loads((tmp_path / "second" / REPORT).read_text())
    assert (
        "distill",
        f"the teacher was asked about 0 samples; {2 * first['hits']} were found in the cache",
    ) in findings(report)


@pytest.mark.parametrize("text", [None, ""])
def test_a_folder_for_nothing(place: Path, tmp_path: Path, text: str | None) -> None:
    asked = settings(
        place, teacher_cache=str(tmp_path / "cache"), teacher=None if text is None else str(place / "model")
    )
    with pytest.raises(PlanError, match="--teacher-cache is for a --recipe that distils with a `cache`"):
        run(asked, None if text is None else recipe(text), tmp_path / "out")
    assert not (tmp_path / "cache").exists()
