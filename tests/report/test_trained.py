"""Two trained folders side by side, and the dense model beside a sparse one: from their files alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from sparsify import StateError
from sparsify.report.folder import read
from sparsify.report.predictions import FILE, read_predictions
from sparsify.report.saved import find
from sparsify.report.trained import trained
from sparsify.storage import pack
from sparsify.train.run import run
from tests import tiny
from tests.majors import OLD
from tests.report.test_report import call
from tests.train.test_train import recipe, settings

pytestmark = [
    pytest.mark.skipif(OLD, reason="`sparsify train` needs transformers 5"),
    pytest.mark.usefixtures("quiet_libraries"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense training, a sparse one that begins with its model, and one of other rows."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.text_model(folder / "model")
    tiny.tsv(folder / "train.tsv", 64, seed=1)
    tiny.tsv(folder / "eval.tsv", 20, seed=2)
    tiny.tsv(folder / "other.tsv", 12, seed=3)
    run(settings(folder, epochs=1), None, folder / "dense")
    run(settings(folder, model=str(folder / "dense"), epochs=1), recipe(0.95), folder / "sparse")
    run(settings(folder, eval=str(folder / "other.tsv"), epochs=1), None, folder / "other")
    return folder


def predicted(folder: Path, rows: list[tuple[int, str]]) -> list[str]:
    """Return the labels that a saved model gives to the rows, one at a time."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = [model(**tokenizer(text, return_tensors="pt")).logits for _, text in rows]
    return [model.config.id2label[int(each.argmax())] for each in logits]


def test_predictions_are_those_of_the_saved_model_in_the_order_of_the_data(place: Path) -> None:
    """Rows are evaluated sorted by length; they are written as they stand in the file."""
    rows = tiny.rows(20, seed=2)
    lengths = [len(text.split()) for _, text in rows]
    assert lengths != sorted(lengths)
    for name in ("dense", "sparse"):
        kept = read_predictions(place / name / FILE)
        assert kept is not None
        assert kept.values() == predicted(place / name, rows)
        assert kept.right == [int(str(label) == value) for (label, _), value in zip(rows, kept.values(), strict=True)]
        report = json.loads((place / name / "report.json").read_text())["training"]
        assert kept.sha256 == report["data"]["eval_sha256"]
        assert sum(kept.right) / len(kept.right) == pytest.approx(report["metrics"]["accuracy"])


def test_diff_says_metrics_and_agreement_before_masks(place: Path) -> None:
    text = call("diff", str(place / "dense"), str(place / "sparse"))
    first, second = (read_predictions(place / name / FILE) for name in ("dense", "sparse"))
    assert first is not None
    assert second is not None
    same = sum(a == b for a, b in zip(first.values(), second.values(), strict=True))
    assert f"the same prediction for {same / 20:.1%} of 20 rows" in text
    assert text.index("accuracy") < text.index("the same prediction") < text.index("Jaccard")
    data = json.loads(call("diff", str(place / "dense"), str(place / "sparse"), "--json"))
    metrics = [data["training"][f"metrics_{side}"]["accuracy"] for side in ("before", "after")]
    assert f"{100 * (metrics[1] - metrics[0]):+.2f} points" in text
    assert data["training"]["agreement"]["same"] == same
    assert data["total"]["kept_before"] > data["total"]["kept_after"]


def test_other_rows_are_said_and_not_subtracted(place: Path) -> None:
    found = trained(find(place / "dense"), find(place / "other"))
    assert found is not None
    assert not found.comparable
    assert found.agreement is None
    assert found.notes == [
        "not evaluated on the same rows (20 and 12): no difference is given, and no predictions are compared"
    ]
    assert all(row[3] == "" for row in found.table())
    assert all("–" not in row[:3] for row in found.table() if row[0] in ("accuracy", "loss"))


def test_what_lacks_is_said(place: Path, tmp_path: Path) -> None:
    dense = find(place / "dense")
    assert trained(find(place / "model"), find(place / "model")) is None
    one = trained(find(place / "model"), dense)
    assert one is not None
    assert one.notes == ["A has no report.json with metrics: only weights are compared"]
    shutil.copytree(place / "sparse", tmp_path / "bare")
    (tmp_path / "bare" / FILE).unlink()
    bare = trained(dense, find(tmp_path / "bare"))
    assert bare is not None
    assert bare.notes == [f"predictions are not compared: B has no {FILE}"]
    assert bare.comparable
    shutil.copy(place / "other" / FILE, tmp_path / "bare" / FILE)
    stale = trained(dense, find(tmp_path / "bare"))
    assert stale is not None
    assert stale.agreement is None
    assert "of another evaluation" in stale.notes[0]


def test_packed_models_carry_it_all(place: Path, tmp_path: Path) -> None:
    pack(place / "sparse", tmp_path / "sparse.packed")
    found = trained(find(place / "dense"), find(tmp_path / "sparse.packed"))
    assert found is not None
    assert found.agreement is not None


def test_the_dense_model_is_found_where_the_training_began(place: Path) -> None:
    found = read(place / "sparse")
    dense = json.loads((place / "dense" / "report.json").read_text())["training"]["metrics"]
    assert found.dense is not None
    assert found.curves().reference == dense["accuracy"]
    assert found.curves().note == ""
    assert dict(found.facts())["accuracy"].endswith(f"(dense: {dense['accuracy']:.4f})")
    assert read(place / "dense").dense is None, "its own model was not trained by us"
    assert read(place / "dense").curves().note == ""


def test_a_dense_model_can_be_named(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "sparse", tmp_path / "sparse")
    report = json.loads((tmp_path / "sparse" / "report.json").read_text())
    report["training"]["settings"]["model"] = "elsewhere"
    (tmp_path / "sparse" / "report.json").write_text(json.dumps(report))
    alone = read(tmp_path / "sparse")
    assert alone.dense is None
    assert "--dense" in alone.curves().note
    assert (
        "dense model"
        in call("report", str(tmp_path / "sparse"), "--html", str(tmp_path / "page.html"))
        + (tmp_path / "page.html").read_text()
    )
    assert read(tmp_path / "sparse", dense=place / "dense").curves().reference is not None
    for other, why in (("sparse", "it is not dense"), ("other", "same rows"), ("model", r"no report\.json")):
        with pytest.raises(StateError, match=why):
            read(tmp_path / "sparse", dense=place / other)
    with pytest.raises(StateError, match="of a training to compare with"):
        read(place / "model", dense=place / "dense")


def test_vectors_are_one_row(place: Path) -> None:
    found = read(place / "sparse")
    rows = dict(found.counts())
    assert not [name for name in rows if name.endswith("bias")]
    (summary,) = [name for name in rows if name.endswith("other vectors")]
    vectors = [c for name, c in found.census.tensors.items() if found.census.dimensions[name] < 2]
    assert summary == f"{len(vectors)} biases, norms and other vectors"
    assert rows[summary].elements == sum(c.elements for c in vectors)
    assert sum(c.elements for c in rows.values()) == found.census.conventions["model"].elements
