"""`sparsify compact` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sparsify.cli.app import app
from sparsify.compaction import folder as folders
from tests.anatomy.declared import make
from tests.commands import ENVIRONMENT
from tests.compaction.dead import kill
from tests.majors import OLD

pytestmark = pytest.mark.skipif(OLD, reason="folders of smaller models are tried with transformers 5")


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    model = make("BertForSequenceClassification")
    kill(model)
    model.save_pretrained(tmp_path / "sparse")
    (tmp_path / "sparse" / "tokenizer.json").write_text("{}")
    (tmp_path / "sparse" / "trainer_state.json").write_text("{}")
    (tmp_path / "sparse" / "checkpoints").mkdir()
    return tmp_path / "sparse"


def said(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["compact", *map(str, words)])
    return done.exit_code, done.output


def test_it_writes_the_smaller_model_and_says_how_it_loads(sparse: Path, tmp_path: Path) -> None:
    code, text = said(sparse, tmp_path / "small")
    assert code == 0, text
    assert "→" in text
    assert "heads: 8 → 6 (3 in every block, of 4)" in text
    assert "neurons: 128 → 95 (47 to 48 in a block, of 64)" in text
    assert "sparsify.load(" in text
    assert "differ in width" in text
    names = {path.name for path in (tmp_path / "small").iterdir()}
    assert names == {"config.json", "model.safetensors", "sparsify_widths.json", "tokenizer.json"}
    code, text = said(sparse, tmp_path / "equal", "--equal", "--json")
    data = json.loads(text)
    assert code == 0
    assert data["loading"]["config"] == {"intermediate_size": [64, 48]}
    assert data["parameters"]["after"] < data["parameters"]["before"]
    assert {width["after"] for width in data["widths"] if width["kind"] == "neurons"} == {48}
    code, text = said(tmp_path / "small", tmp_path / "smaller")  # what is small already loads, and stays as it is
    assert code == 0, text
    assert "nothing in it is dead" in text


def test_a_model_that_stock_transformers_loads(tmp_path: Path) -> None:
    model = make("LlamaForCausalLM")
    kill(model, equal=True)
    model.save_pretrained(tmp_path / "sparse")
    code, text = said(tmp_path / "sparse", tmp_path / "small")
    assert code == 0, text
    assert "stock transformers loads it" in text
    assert "intermediate_size 48" in text


def test_wrong_folders_are_one_error_and_nothing_is_written(sparse: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    for words, reason in (
        ((tmp_path / "nothing", tmp_path / "out"), "no such folder"),
        ((tmp_path / "letters", tmp_path / "out"), "no config.json"),
        ((sparse, sparse), "the folder that is read"),
        ((sparse, tmp_path / "letters"), "something else"),
        ((sparse, tmp_path / "out", "--tolerance", "2"), "between 0 and 1"),
    ):
        code, text = said(*words)
        assert code == 1, text
        assert reason in " ".join(text.split()), text
        assert "Traceback" not in text
    assert not (tmp_path / "out").exists()
    assert said(sparse, tmp_path / "out", "--align", "0")[0] == 2
    assert (tmp_path / "letters" / "dear.txt").read_text() == "x"


def test_links_are_followed_and_the_working_folder_stays(
    sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert said(sparse, tmp_path / "link")[0] == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "config.json").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, text = said(sparse, ".")
    assert code == 1
    assert "is the working folder" in text
    assert not list((tmp_path / "here").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"sparse", "disk", "link", "here"}


def test_what_is_written_meanwhile_is_left(sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the same command, started twice: the one that ends first has the place."""
    work = folders.compacted

    def slow(*given: object, **named: object) -> object:
        found = work(*given, **named)  # type: ignore[arg-type]
        (tmp_path / "small").mkdir()
        (tmp_path / "small" / "config.json").write_text("theirs")
        return found

    monkeypatch.setattr(folders, "compacted", slow)
    code, text = said(sparse, tmp_path / "small")
    assert code == 1
    assert "small has changed meanwhile" in " ".join(text.split())
    assert (tmp_path / "small" / "config.json").read_text() == "theirs"
    assert {path.name for path in tmp_path.iterdir()} == {"sparse", "small"}


def test_two_commands_at_once_leave_one_whole_folder(sparse: Path, tmp_path: Path) -> None:
    from sparsify import load

    words = [sys.executable, "-m", "sparsify", "compact", str(sparse), str(tmp_path / "small")]
    both = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)
        for _ in range(2)
    ]
    texts = [each.communicate(timeout=240)[0] for each in both]
    assert any(each.returncode == 0 for each in both), texts
    for each, text in zip(both, texts, strict=True):
        assert each.returncode == 0 or "has changed meanwhile" in text, text
    assert load(tmp_path / "small").num_parameters() < make("BertForSequenceClassification").num_parameters()  # type: ignore[operator]
    assert {path.name for path in tmp_path.iterdir()} == {"sparse", "small"}


def test_single_zeros_are_no_gain_and_that_is_said(sparse: Path, tmp_path: Path) -> None:
    model = make("BertForSequenceClassification")
    dense, single = tmp_path / "dense", tmp_path / "single"
    model.save_pretrained(dense)
    with torch.no_grad():
        for parameter in model.bert.encoder.parameters():
            if parameter.dim() > 1:
                parameter[:, ::2] = 0
                parameter[::2, ::2] = 1.0
    model.save_pretrained(single)
    for folder, wanted in ((dense, False), (single, True), (sparse, False)):
        code, text = said(folder, tmp_path / "out")
        assert code == 0
        words = " ".join(text.split())
        assert ("zeros that lie singly, from which compaction gains nothing" in words) == wanted, text
    assert "sparsify pack" in " ".join(said(single, tmp_path / "out")[1].split())
    data = json.loads(said(single, tmp_path / "out", "--json")[1])
    zeros = sum(int((each == 0).sum()) for each in model.parameters())
    assert data["zeros_left"] == pytest.approx(zeros / model.num_parameters())
