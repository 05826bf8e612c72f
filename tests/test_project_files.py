"""Files that others read: GitHub's checks and templates, the citation, the version in three places."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparsify._version import __version__
from tests.versions.environments import table

ROOT = Path(__file__).parents[1]
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
ASKED = {"bug": "sparsify doctor", "model": "sparsify anatomy MODEL", "feature": "What you want to do"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    """The jobs of GitHub's checks."""
    return dict(read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"])


def test_the_matrix_is_the_table(jobs: dict[str, Any]) -> None:
    matrix = jobs["versions"]["strategy"]["matrix"]["include"]
    assert matrix == [{"environment": each.name, "python": each.python} for each in table().environments]


def test_the_checks_are_those_of_our_own_script(jobs: dict[str, Any]) -> None:
    """Whatever `.ci/run` demands, GitHub's checks demand too; the set-up is theirs."""
    script = (ROOT / ".ci" / "run").read_text()
    ours = set(re.findall(r"^(?:make|\.venv/bin/sparsify) .*$", script, re.MULTILINE)) - {"make setup"}
    theirs = {step.get("run") for name in ("check", "test") for step in jobs[name]["steps"]}
    assert len(ours) > 5
    assert ours <= theirs


def test_jobs_end_and_may_only_read(jobs: dict[str, Any]) -> None:
    assert read(ROOT / ".github" / "workflows" / "ci.yml")["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 60 for job in jobs.values())


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_issue_templates_ask_for_what_is_needed(path: Path) -> None:
    template = read(path)
    assert {"name", "description", "labels", "body"} <= set(template)
    ids = [part["id"] for part in template["body"]]
    assert len(ids) == len(set(ids))
    for part in template["body"]:
        assert part["type"] in ("textarea", "input")
        assert part["attributes"]["label"]
    needed = {part["attributes"]["label"] for part in template["body"] if part.get("validations", {}).get("required")}
    assert ASKED[path.stem] in " ".join(needed)


def test_the_templates_are_these() -> None:
    assert {path.stem for path in TEMPLATES} == set(ASKED)


def test_the_version_is_the_same_everywhere() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert str(citation["version"]) == __version__
    (heading,) = re.findall(r"\A# Changes\n\n## (\S+) \(.+\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading == __version__
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
