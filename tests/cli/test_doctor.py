"""`sparsify doctor`: versions, and what is missing for what."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from sparsify.cli import doctor
from sparsify.cli.app import app


def test_it_says_what_is_there() -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    extras = {each["name"]: each for each in found["extras"]}
    assert found["torch"].split()[0]
    assert "typer" in extras["cli"]["installed"]
    assert {"matplotlib", "transformers", "scikit-learn"} <= set(extras["demo"]["installed"]), "extras within extras"
    assert "torch" in CliRunner().invoke(app, ["doctor"]).output


def test_it_says_what_is_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "torch>=2.4",
        "typer>=0.12; extra == 'cli'",
        'nothing-of-that-name>=3.8; extra == "cli"',
        "rich (>=999) ; extra == 'cli'",
        "sparsify-torch[cli]; extra == 'report'",
        "pytest>=8; extra == 'dev'",
    ]
    monkeypatch.setattr(doctor, "requires", lambda name: lines)
    found = doctor.extra("cli")
    assert set(found["installed"]) == {"typer"}
    assert found["missing"]["nothing-of-that-name"] == ">=3.8"
    assert found["missing"]["rich"].startswith(">=999, here ")
    assert doctor.extra("report")["missing"] == found["missing"]
    assert doctor.extra("storage")["missing"], "what is installed does not know it"
    text = CliRunner().invoke(app, ["doctor"]).output
    assert "pip install 'sparsify-torch[cli," in text
    assert "nothing-of-that-name" in text.replace("\n", "") or "nothing-of" in text


def test_versions_are_compared_by_their_numbers() -> None:
    assert doctor._older("2.9.1", ">=2.11")
    assert not doctor._older("2.13.0+cpu", ">=2.4")
    assert not doctor._older("1.0", "")
