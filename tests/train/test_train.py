"""`sparsify train` from beginning to end, on small models and real files."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification
from typer.testing import CliRunner, Result

from sparsify import Recipe, StateError, measure
from sparsify.cli.app import app
from sparsify.errors import DataError, PlanError, SparsifyError, TrainingError
from sparsify.report.findings import findings
from sparsify.train.keeper import Keeper, Stopped
from sparsify.train.run import run
from sparsify.train.settings import Settings
from tests import tiny
from tests.tiny import RECIPE

pytestmark = pytest.mark.usefixtures("quiet_libraries")


def settings(place: Path, **more: Any) -> Settings:
    defaults: dict[str, Any] = {
        "task": "text-classification",
        "model": str(place / "model"),
        "train": str(place / "train.tsv"),
        "eval": str(place / "eval.tsv"),
        "epochs": 2,
        "batch_size": 8,
        "lr": 3e-3,
        "max_length": 16,
    }
    return Settings(**{**defaults, **more})


def recipe(sparsity: float = 0.75) -> Recipe:
    return Recipe.parse(RECIPE.replace("0.75", str(sparsity)))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return found


def same(first: Path, second: Path) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def interrupted(place: Path, out: Path, step: int, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    """Run until Ctrl-C is pressed in a step."""
    interrupted_as(settings(place, **more), recipe(), out, step, monkeypatch)


def interrupted_as(
    asked: Settings, under: Recipe | None, out: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run what was asked for until Ctrl-C is pressed in a step."""
    before = Keeper.on_step_end

    def press(self: Keeper, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return before(self, args, state, control)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "on_step_end", press)
        with pytest.raises(Stopped) as stopped:
            run(asked, under, out)
    assert stopped.value.step == step


def test_the_folder_loads_without_us(place: Path, tmp_path: Path) -> None:
    report = run(settings(place, epochs=16), recipe(), tmp_path / "out")
    code = (
        "import sys; sys.modules['sparsify'] = None\n"
        "from transformers import AutoModelForSequenceClassification as M, AutoTokenizer as T\n"
        f"m, t = M.from_pretrained({str(tmp_path / 'out')!r}), T.from_pretrained({str(tmp_path / 'out')!r})\n"
        "print(m(**t('a lovely film', return_tensors='pt')).logits.argmax().item(), m.config.id2label)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "1 {0: '0', 1: '1'}"
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert measure(model).to_dict()["model"] == report["density"]["model"]
    assert report["density"]["targeted"]["sparsity"] == pytest.approx(0.75, abs=1e-3)
    assert report["training"]["metrics"]["accuracy"] > 0.9
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "model.safetensors", "predictions.json", "recipe.yaml", "report.json", "run.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def test_report_and_recipe_say_what_was_done(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(settings(place), recipe(), out)
    report = json.loads((out / "report.json").read_text())
    assert report["recipe"]["sha256"] == recipe().resolve().sha256
    assert report["verified"] is True
    assert report["training"]["settings"]["lr"] == 3e-3
    assert set(report["training"]["versions"]) == {"torch", "transformers", "datasets", "accelerate"}
    assert [e["step"] for e in report["history"] if "eval_accuracy" in e] == [12, 24]
    sparsity = [e["sparsity"] for e in report["history"] if "sparsity" in e]
    assert sparsity[0] == 0
    assert sparsity[-1] == pytest.approx(0.75, abs=1e-3)
    text = (out / "recipe.yaml").read_text()
    assert recipe().resolve().sha256 in text
    assert "torch" in text.splitlines()[1]
    assert Recipe.load(out / "recipe.yaml").resolve().sha256 == recipe().resolve().sha256


def test_without_a_recipe_it_trains_densely(place: Path, tmp_path: Path) -> None:
    report = run(settings(place), None, tmp_path / "out")
    assert report["recipe"] is None
    assert report["density"]["linear" if "linear" in report["density"] else "layers"]["sparsity"] < 0.01
    assert not (tmp_path / "out" / "recipe.yaml").exists()


def test_gates_are_measured_when_they_end(place: Path, tmp_path: Path) -> None:
    text = RECIPE.replace("type: prune,", "type: prune, criterion: {type: hard-concrete, learning_rate: 1.0},")
    report = run(settings(place), Recipe.parse(text), tmp_path / "run")
    (found,) = report["modifiers"].values()
    assert set(found["metrics"]) == {"at_threshold", "after"}
    assert set(found["metrics"]["after"]) == {"loss", "accuracy", "f1_macro", "f1_weighted", "f1_binary", "matthews"}
    assert found["sparsity"] == pytest.approx(0.75, abs=1e-3)
    (first, second) = findings(report)
    assert first[0] == "prune"
    assert "the final masks prune 75.00%" in first[1]
    assert "accuracy" in second[1]
    assert [entry for entry in report["history"] if "eval_accuracy" in entry][-1]["step"] == report["training"]["steps"]


def test_images(tmp_path: Path) -> None:
    from sparsify.demo.files import write_files

    places = write_files(tmp_path / "digits", seed=0)
    asked = Settings(
        "image-classification", str(places["model"]), str(places["train"]), str(places["eval"]), epochs=2, batch_size=64, lr=2e-3
    )  # fmt: skip
    report = run(asked, recipe(), tmp_path / "out")
    assert report["training"]["data"]["labels"] == [str(digit) for digit in range(10)]
    assert report["training"]["metrics"]["accuracy"] > 0.15
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert model.config.num_labels == 10
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()


def test_a_stopped_run_goes_on_to_the_same_bits(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(settings(place), recipe(), tmp_path / "whole")
    interrupted(place, tmp_path / "cut", 9, monkeypatch)
    resumed = run(settings(place), recipe(), tmp_path / "cut", resume=True)
    same(tmp_path / "whole", tmp_path / "cut")
    assert resumed["training"]["metrics"]["accuracy"] == whole["training"]["metrics"]["accuracy"]
    history = [[e["step"] for e in report["history"] if "loss" in e] for report in (whole, resumed)]
    assert history[0] == history[1]
    with pytest.raises(StateError, match="is finished"):
        run(settings(place), recipe(), tmp_path / "cut", resume=True)


def test_the_best_checkpoint_at_the_target_can_be_kept(place: Path, tmp_path: Path) -> None:
    report = run(settings(place, best=True, eval_every=4, epochs=3), recipe(), tmp_path / "out")
    picked = report["training"]["picked_step"]
    scores = {e["step"]: e["eval_accuracy"] for e in report["history"] if "eval_accuracy" in e and e["step"] >= 22}
    assert scores[picked] == max(scores.values())
    assert report["training"]["metrics"]["accuracy"] == max(scores.values())
    assert report["density"]["targeted"]["sparsity"] == pytest.approx(0.75, abs=1e-3)


def test_resuming_under_other_settings_is_refused(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    interrupted(place, out, 9, monkeypatch)
    with pytest.raises(StateError, match=r"started with other settings[\s\S]*lr: 0.003 then, 0.001 now"):
        run(settings(place, lr=1e-3), recipe(), out, resume=True)
    with pytest.raises(StateError, match=r"recipe: '[0-9a-f]{64}' then, '[0-9a-f]{64}' now"):
        run(settings(place), recipe(0.5), out, resume=True)
    with pytest.raises(StateError, match="recipe: '[0-9a-f]{64}' then, None now"):
        run(settings(place), None, out, resume=True)
    other = tiny.tsv(tmp_path / "train.tsv", 96, seed=5)
    with pytest.raises(StateError, match=r"train: '.*' then"):
        run(settings(place, train=str(other)), recipe(), out, resume=True)
    saved = (place / "train.tsv").read_text()
    try:
        tiny.tsv(place / "train.tsv", 96, seed=5)
        with pytest.raises(StateError, match="train_sha256"):
            run(settings(place), recipe(), out, resume=True)
    finally:
        (place / "train.tsv").write_text(saved)
    with pytest.raises(StateError, match="no run to resume here"):
        run(settings(place), recipe(), tmp_path / "nothing", resume=True)


def test_a_folder_in_use_is_not_overwritten(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(settings(place, epochs=1), None, out)
    with pytest.raises(StateError, match="holds a run already: add --resume"):
        run(settings(place), recipe(), out)
    run(settings(place), recipe(), out, overwrite=True)
    assert (out / "recipe.yaml").exists()
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("important")
    with pytest.raises(StateError, match="holds no run of sparsify train"):
        run(settings(place), recipe(), other, overwrite=True)
    assert (other / "thesis.txt").read_text() == "important"
    with pytest.raises(StateError, match="is a file"):
        run(settings(place), recipe(), other / "thesis.txt")


def test_bad_data_keeps_an_earlier_run(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(settings(place, epochs=1), None, out)
    before = (out / "report.json").read_text()
    with pytest.raises(DataError):
        run(settings(place, eval=str(tmp_path / "none.tsv")), None, out, overwrite=True)
    assert (out / "report.json").read_text() == before


def test_an_unknown_label_at_evaluation(place: Path, tmp_path: Path) -> None:
    bad = tmp_path / "eval.tsv"
    bad.write_text("1\ta fine film\n2\ta song\n")
    with pytest.raises(DataError, match=r"eval\.tsv:2: the label '2' does not occur in the training data"):
        run(settings(place, eval=str(bad)), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_head_for_the_task(place: Path, tmp_path: Path) -> None:
    vit = tiny.image_model(tmp_path / "vit")
    with pytest.raises(PlanError, match=r"a vit model .* has no head for text-classification .*image-classification"):
        run(settings(place, model=str(vit)), None, tmp_path / "out")
    with pytest.raises(PlanError, match=r"no such folder .*did you mean"):
        run(settings(place, model=str(place / "modle")), None, tmp_path / "out")


def test_an_image_that_is_none(tmp_path: Path) -> None:
    from sparsify.demo.files import write_files

    places = write_files(tmp_path / "digits", seed=0)
    victim = sorted((places["eval"] / "3").iterdir())[4]
    victim.write_bytes(b"not a picture")
    asked = Settings(
        "image-classification", str(places["model"]), str(places["train"]), str(places["eval"]), epochs=1, batch_size=256
    )  # fmt: skip
    with pytest.raises(DataError, match=rf"eval/3/{victim.name}: no image that can be read"):
        run(asked, None, tmp_path / "out")


def test_a_loss_that_is_no_number_stops_the_run(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = Keeper.on_step_end

    def spoil(self: Keeper, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> Any:
        if state.global_step == 14:
            with torch.no_grad():
                model.classifier.weight.fill_(float("nan"))
        return before(self, args, state, control)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keeper, "on_step_end", spoil)
        with pytest.raises(
            TrainingError, match=r"the loss is nan in step 15; the last good checkpoint is .*checkpoint-12"
        ):
            run(settings(place), recipe(), out)
    run(settings(place), recipe(), out, resume=True)
    run(settings(place), recipe(), tmp_path / "whole")
    same(tmp_path / "whole", out)


def test_weights_that_are_no_numbers_are_not_saved(place: Path, tmp_path: Path) -> None:
    before = Keeper.on_step_end

    def spoil(self: Keeper, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> Any:
        if state.global_step == 12:
            with torch.no_grad():
                model.classifier.weight[0, 0] = float("inf")
        return before(self, args, state, control)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keeper, "on_step_end", spoil)
        with pytest.raises(
            TrainingError, match=r"classifier\.weight is not finite after step 12; there is no checkpoint"
        ):
            run(settings(place), recipe(), tmp_path / "out")
    assert not list((tmp_path / "out" / "checkpoints").glob("checkpoint-*"))


def test_freezing(place: Path, tmp_path: Path) -> None:
    before = weights(place / "model")
    run(settings(place, epochs=1, freeze=("embeddings", "bert.encoder.layer.0.*")), None, tmp_path / "out")
    after = weights(tmp_path / "out")
    for name, tensor in before.items():
        frozen = name.startswith(("embeddings", "encoder.layer.0."))
        if name.startswith(("embeddings", "encoder")):
            assert torch.equal(tensor, after[f"bert.{name}"]) is frozen, name
    with pytest.raises(PlanError, match=r"--freeze embedings: nothing .*did you mean 'embeddings'"):
        run(settings(place, freeze=("embedings",)), None, tmp_path / "other")


def test_a_full_disk_keeps_the_last_good_checkpoint(place: Path, tmp_path: Path) -> None:
    """No room for the second checkpoint: one error, and after room is made the run goes on to the same bits."""
    out = tmp_path / "out"
    before = Keeper.on_step_end
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self: Keeper, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if state.global_step == 23:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        return before(self, args, state, control)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keeper, "on_step_end", fill)
        try:
            with pytest.raises(SparsifyError, match=r"cannot be written: .*last good checkpoint is .*checkpoint-12"):
                run(settings(place), recipe(), out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    run(settings(place), recipe(), out, resume=True)
    run(settings(place), recipe(), tmp_path / "whole")
    same(tmp_path / "whole", out)


def test_a_folder_that_cannot_be_written_to(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be (written|created)"):
        run(settings(place), recipe(), tmp_path / "file" / "out")


def test_a_damaged_checkpoint_is_named(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    interrupted(place, out, 14, monkeypatch)
    (out / "checkpoints" / "checkpoint-14" / "optimizer.pt").write_bytes(b"short")
    with pytest.raises(
        StateError, match=r"checkpoint-14 is damaged: optimizer\.pt .*remove that folder .*checkpoint-12"
    ):
        run(settings(place), recipe(), out, resume=True)


def test_accumulation_bfloat16_and_parts_of_epochs(place: Path, tmp_path: Path) -> None:
    asked = settings(place, accumulate=3, bf16=True, epochs=2.5, schedule="cosine", eval_every=1000)
    report = run(asked, recipe(), tmp_path / "out")
    assert report["training"]["steps"] == 10
    assert report["density"]["targeted"]["sparsity"] == pytest.approx(0.75, abs=1e-3)


def test_a_pair_of_texts(place: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    lines = [f"{text},a film was {text.split()[0]},{'yes' if label else 'no'}" for label, text in tiny.rows(64, seed=3)]
    pairs.write_text("premise,hypothesis,label\n" + "\n".join(lines))
    report = run(settings(place, train=str(pairs), eval=str(pairs), epochs=1), None, tmp_path / "out")
    assert report["training"]["data"]["labels"] == ["no", "yes"]


def test_an_unknown_logger_leaves_nothing_behind(place: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--log-to: nonsense is not supported, only"):
        run(settings(place, log_to=("nonsense",)), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line(place: Path, tmp_path: Path) -> None:
    """The flags, the exit codes, and no traceback."""
    command = [
        "train", "--task", "text-classification", "--model", str(place / "model"),
        "--train", str(place / "train.tsv"), "--eval", str(place / "eval.tsv"), "--out", str(tmp_path / "out"), "--epochs", "1",
        "--batch-size", "8", "--recipe", "gmp", "--set", "sparsity=0.5", "--set", "every=2",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}

    def call(*more: str) -> Result:
        return CliRunner().invoke(app, [*command, *more])

    installed = str(Path(sys.executable).parent / "sparsify")
    done = subprocess.run([installed, *command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert re.search(r"zeros: 50\.0\d% of the targeted weights", done.stdout)
    again = call()
    assert again.exit_code == 1
    assert "holds a run already" in again.stderr
    assert "Traceback" not in again.stderr
    for flags, message in (
        (("--epochs", "0"), "above 0"),
        (("--task", "text-clasification"), "did you mean 'text-classification'"),
        (("--best", "--save-every", "3"), "use --eval-every"),
        (("--resume", "--overwrite"), "either --resume or --overwrite"),
    ):
        wrong = call(*flags)
        assert wrong.exit_code == 2, flags
        assert message in " ".join(wrong.stderr.replace("│", " ").split()), wrong.stderr
