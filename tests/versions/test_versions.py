"""What is declared is what was run: pyproject.toml, the table, the record, the page and GitHub's checks agree."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests.versions import build, page, record
from tests.versions.__main__ import main
from tests.versions.environments import ROOT, Environment, table

TABLE = table()
ENTRY = record.Entry(
    name="a", python="3.11.7", packages={"torch": "2.6.0"}, tests="subset", warnings="default", passed=1, failed=0,
    skipped=0, test_seconds=1, build_seconds=1, disk_gigabytes=1, date="2026-01-01", commit="0",
)  # fmt: skip
PAIR = {"torch": "2.6.0", "transformers": "4.48.0"}
RUN = [each for each in TABLE.environments if each.name in record.read()]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def test_the_page_is_fresh() -> None:
    assert page.FILE.read_text(encoding="utf-8") == page.text(TABLE, record.read()), "python -m tests.versions --page"


def test_the_subset_exists_and_names_are_used_once() -> None:
    assert [path for path in TABLE.subset if not (ROOT / path).exists()] == []
    assert len({each.name for each in TABLE.environments}) == len(TABLE.environments)
    assert set(record.read()) <= {each.name for each in TABLE.environments}, "a run of what is no longer in the table"


@pytest.mark.parametrize("environment", RUN, ids=lambda each: each.name)
def test_what_is_recorded_passed(environment: Environment) -> None:
    entry = record.read()[environment.name]
    assert entry.failed == 0
    assert entry.warnings == environment.warnings
    assert entry.passed > 500
    assert entry.python.startswith(f"{environment.python}.")


def test_nothing_older_is_declared_than_was_run(project: dict[str, Any]) -> None:
    entry = record.read()["oldest"]
    extras = {name: project["optional-dependencies"][name] for name in named("oldest").extras}
    wanted = [
        Requirement(text) for text in (*project["dependencies"], *(t for texts in extras.values() for t in texts))
    ]
    bounds = {each.name: each.specifier for each in wanted if each.name != project["name"]}
    assert {"torch", "transformers"} <= set(bounds)
    for name, specifier in bounds.items():
        (bound,) = specifier
        found = {key.lower(): text for key, text in entry.packages.items()}[name.lower()]
        assert bound.operator == ">="
        least, ran = Version(bound.version), Version(found)
        assert ran.release[: len(least.release)] == least.release, f"{name}: {specifier} is declared, {found} ran"


def test_the_newest_are_newer_on_the_same_python() -> None:
    oldest, newest = record.read()["oldest"], record.read()["newest"]
    assert named("oldest").python == named("newest").python
    for name in ("torch", "transformers"):
        assert Version(newest.packages[name]) > Version(oldest.packages[name])


def test_pythons_are_declared_as_they_were_run(project: dict[str, Any]) -> None:
    prefix = "Programming Language :: Python :: "
    declared = {text.removeprefix(prefix) for text in project["classifiers"] if text.startswith(prefix)}
    assert declared == {each.python for each in RUN}
    allowed = SpecifierSet(project["requires-python"])
    known = sorted((each.python for each in (*TABLE.environments, *TABLE.expected)), key=Version)
    assert all(f"{each}.0" in allowed for each in known)
    assert project["requires-python"] == f">={known[0]}", "no Python is allowed of which the page says nothing"


def test_the_page_says_what_was_not_run() -> None:
    text = page.text(TABLE, {})
    assert all(f"- The environment *{each.name}*." in text for each in TABLE.environments)
    assert all(f"- Python {each.python}." in text for each in TABLE.expected)


def write_results(path: Path, **files: str) -> None:
    """Write what pytest would: for each file a letter a test, p, f, e (error) or s."""
    inside = {"p": "", "f": "<failure/>", "e": "<error/>", "s": "<skipped/>"}
    cases = [
        f'<testcase classname="tests.{file}" name="a">{inside[letter]}</testcase>'
        for file, letters in files.items()
        for letter in letters
    ]
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")


def test_counts_come_from_what_pytest_wrote(tmp_path: Path) -> None:
    write_results(tmp_path / "a.xml", test_a="ppfes", test_b="p")
    found = build.outcomes(tmp_path / "a.xml")
    assert found == {"tests/test_a.py": {"passed": 2, "failed": 2, "skipped": 1}, "tests/test_b.py": {"passed": 1}}


def test_what_failed_is_run_again_and_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "newest"
    place.mkdir()
    with pytest.raises(build.BuildError, match="was not kept"):
        build.run_failed(named("newest"), tmp_path, ENTRY, processes="0")
    write_results(place / build.RESULTS, test_a="ppf", test_b="pps")
    ran: list[list[str]] = []

    def run_tests(environment: Environment, place: Path, tests: list[str], *_: str) -> tuple[float, Counter[str]]:
        ran.append(tests)
        return 2.0, Counter(passed=2, skipped=1)

    monkeypatch.setattr(build, "run_tests", run_tests)
    monkeypatch.setattr(build, "build", lambda environment, place: None)
    monkeypatch.setattr(build, "versions", lambda place: {"python": "3.11.9"})
    before = ENTRY.model_copy(update={"passed": 4, "failed": 1, "skipped": 1})
    after = build.run_failed(named("newest"), tmp_path, before, processes="0")
    assert ran == [["tests/test_a.py"]]
    assert (after.passed, after.failed, after.skipped) == (4, 0, 2)
    assert (after.again, after.test_seconds, after.python) == (("tests/test_a.py",), 3, "3.11.9")
    assert "In *a*, files in which something failed" in page._runs([after.model_copy(update={"packages": PAIR})])


def test_an_entry_takes_the_place_of_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "FILE", tmp_path / "record.json")
    assert record.read() == {}
    for each in (ENTRY, ENTRY.model_copy(update={"name": "b"}), ENTRY.model_copy(update={"passed": 2})):
        record.write(each)
    assert {name: each.passed for name, each in record.read().items()} == {"a": 2, "b": 1}


def test_too_little_room_and_wrong_names_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "NEEDED", 1e30)
    written = record.FILE.read_bytes()
    assert main(["newest", "--root", str(tmp_path)]) == 1
    assert "are needed; choose another --root" in capsys.readouterr().err
    assert record.FILE.read_bytes() == written
    for words in (["newst"], ["--keep"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
    assert "no environment is called newst; there are oldest, newest" in capsys.readouterr().err


def named(name: str) -> Environment:
    """Return the environment of that name."""
    return next(each for each in TABLE.environments if each.name == name)
