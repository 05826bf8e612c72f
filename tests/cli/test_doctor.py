"""`sparsify doctor`: versions, and what is missing for what."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import pytest
from typer.testing import CliRunner

from sparsify import pretrained
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


def test_it_lists_plug_ins_and_why_one_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [EntryPoint("bad", "no_such_module", "sparsify.plugins"), EntryPoint("good", "json", "sparsify.plugins")]
    monkeypatch.setattr(doctor, "plugins", lambda: entries)
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).output)["plugins"]
    assert [each["name"] for each in found] == ["bad", "good"]
    assert "No module named 'no_such_module'" in found[0]["problem"]
    assert found[1] | {"distribution": ""} == {"name": "good", "module": "json", "distribution": "", "problem": ""}
    text = " ".join(CliRunner().invoke(app, ["doctor"]).output.split())
    assert "plug-in good (json, an unknown distribution): loads" in text
    monkeypatch.setattr(doctor, "plugins", list)
    assert "no plug-ins are installed" in CliRunner().invoke(app, ["doctor"]).output


def test_plug_ins_are_loaded_before_a_configuration_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them may make its kind of model known."""
    calls: list[str] = []
    monkeypatch.setattr(pretrained, "load_plugins", lambda: calls.append("plug-ins"))
    monkeypatch.setattr(pretrained, "config_of", lambda name: calls.append("config") or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pretrained.planned("a-folder")
    assert calls == ["plug-ins", "config"]
