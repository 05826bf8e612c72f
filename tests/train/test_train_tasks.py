"""Every task from data in files to metrics, under a recipe; read again by stock transformers, and exported."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sparsify import PlanError, Recipe, heads, spans
from sparsify.errors import DataError
from sparsify.train import answering, entities, squad
from sparsify.train import model as models
from sparsify.train.run import run
from sparsify.train.tasks import TASKS
from tests import tiny
from tests.train.test_train import interrupted_as, same, settings

pytestmark = pytest.mark.usefixtures("quiet_libraries")

PRUNE = "version: 1\nmodifiers:\n  - {type: prune, sparsity: 0.5, window: {end: 50%, every: 1}}\n"
DISTIL = "version: 1\nmodifiers:\n  - {type: distill, logits: {temperature: 2}}\n  - {type: prune, sparsity: 0.5}\n"


def causal(folder: Path) -> Path:
    """Write a small GPT-2 beside the tokenizer of words."""
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny.text_model(folder / "bert"))
    tokenizer.eos_token, tokenizer.bos_token = "[SEP]", "[CLS]"
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=2, eos_token_id=3, **sizes))
    model.save_pretrained(folder / "gpt2")
    tokenizer.save_pretrained(folder / "gpt2")
    return folder / "gpt2"


def masked(folder: Path) -> Path:
    """Write the small BERT with a mask token."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny.text_model(folder / "mlm"))
    tokenizer.mask_token = "[UNK]"
    tokenizer.save_pretrained(folder / "mlm")
    return folder / "mlm"


def sentences(count: int, seed: int) -> list[str]:
    return [text for _, text in tiny.rows(count, seed)]


def texts(path: Path, count: int, seed: int) -> None:
    path.with_suffix(".txt").write_text("\n".join(sentences(count, seed)) + "\n")


def conll(path: Path, count: int, seed: int) -> None:
    """Good words are B-GOOD, a word after one I-GOOD, bad ones B-BAD."""
    lines = ["-DOCSTART- O\n"]
    for text in sentences(count, seed):
        before = "O"
        for word in text.split():
            tag = (
                "B-GOOD"
                if word in tiny.GOOD
                else "B-BAD"
                if word in tiny.BAD
                else "I-GOOD"
                if before == "B-GOOD"
                else "O"
            )
            lines.append(f"{word} X {tag}")
            before = tag
        lines.append("")
    path.with_suffix(".conll").write_text("\n".join(lines))


def questions(path: Path, count: int, seed: int) -> None:
    """What is the good (or bad) word? In a context of many sentences; some have no answer."""
    chance, made = random.Random(seed), []
    for number in range(count):
        context = " ".join(chance.choices(tiny.OTHERS, k=40))
        answer = chance.choice(tiny.GOOD)
        place = chance.randrange(len(context.split()))
        words = context.split()
        words.insert(place, answer)
        context = " ".join(words)
        entry: dict[str, Any] = {"id": str(number), "question": "was the film fine"}
        entry["answers"] = [{"text": answer, "answer_start": context.index(answer)}]
        made.append({"context": context, "qas": [entry]})
    path.with_suffix(".json").write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": made}]}))


def numbers(path: Path, count: int, seed: int) -> None:
    rows = [f"{len(text.split()) / 4},{text}\n" for text in sentences(count, seed)]
    path.with_suffix(".csv").write_text("score,sentence\n" + "".join(rows))


KINDS: dict[str, tuple[Callable[..., Any], str, dict[str, Any]]] = {
    "text-regression": (numbers, ".csv", {"label_column": "score"}),
    "token-classification": (conll, ".conll", {}),
    "question-answering": (questions, ".json", {"max_length": 24, "stride": 6}),
    "causal-lm": (texts, ".txt", {}),
    "masked-lm": (texts, ".txt", {}),
}


def asked(task: str, folder: Path, count: int = 96, **more: Any) -> Any:
    """Write model and data of a task; return the settings."""
    write, suffix, options = KINDS[task]
    model = {"causal-lm": causal, "masked-lm": masked}.get(task, lambda folder: tiny.text_model(folder / "bert"))(
        folder
    )
    for split, seed in (("train", 0), ("eval", 1)):
        write(folder / split, count if split == "train" else 24, seed)
    files = {split: str(folder / f"{split}{suffix}") for split in ("train", "eval")}
    return settings(folder, task=task, model=str(model), **files, **{**options, **more})


@pytest.mark.parametrize("task", KINDS)
def test_a_task_from_files_to_an_exported_model(task: str, tmp_path: Path) -> None:
    """Exactly sparse, all metrics there, loaded by stock transformers, the tokenizer beside; ONNX gives the same."""
    import transformers
    from transformers import AutoTokenizer

    from sparsify.export.onnx import export
    from sparsify.heads import AUTO

    report = run(asked(task, tmp_path), Recipe.parse(PRUNE), tmp_path / "out")
    assert report["density"]["targeted"]["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert {"loss", *TASKS[task].metrics} <= set(report["training"]["metrics"])
    assert all(math.isfinite(value) for value in report["training"]["metrics"].values())
    _, info = getattr(transformers, AUTO[task]).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert AutoTokenizer.from_pretrained(tmp_path / "out").is_fast
    made = export(tmp_path / "out", tmp_path / "onnx" / "model.onnx")
    assert made.difference < 1e-4
    expected = ("start_logits", "end_logits") if task == "question-answering" else ("logits",)
    assert made.outputs == expected
    targeted = report["density"]["targeted"]
    assert made.zeros >= targeted["elements"] - targeted["nonzeros"] > 0
    assert (tmp_path / "onnx" / "config.json").is_file()
    assert (tmp_path / "onnx" / "tokenizer.json").is_file()


@pytest.mark.parametrize("task", KINDS)
def test_a_model_that_is_loaded_is_taken_as_it_is(task: str, tmp_path: Path) -> None:
    wanted = asked(task, tmp_path, count=12)
    first = TASKS[task].prepare(wanted)
    assert TASKS[task].prepare(wanted, loaded=first.model).model is first.model


@pytest.mark.parametrize("task", KINDS)
def test_a_teacher_and_a_resume(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distilled, broken off and resumed: the bits of the run that nobody disturbed."""
    wanted = asked(task, tmp_path, count=48, save_every=3, eval_every=5)
    run(wanted, None, tmp_path / "teacher")
    recipe = Recipe.parse(DISTIL.replace("temperature: 2", "loss: mse") if task == "text-regression" else DISTIL)
    wanted = replace(wanted, teacher=str(tmp_path / "teacher"))
    run(wanted, recipe, tmp_path / "whole")
    interrupted_as(wanted, recipe, tmp_path / "out", 4, monkeypatch)
    run(wanted, recipe, tmp_path / "out", resume=True)
    same(tmp_path / "whole", tmp_path / "out")


def test_language_models_learn_and_their_perplexity_is_that_of_all_tokens(tmp_path: Path) -> None:
    """exp of the mean −log p of every counted token, whatever the sizes of batches."""
    from transformers import AutoModelForCausalLM

    wanted = asked("causal-lm", tmp_path, epochs=6, lr=1e-2)
    report = run(wanted, None, tmp_path / "out")
    prepared = TASKS["causal-lm"].prepare(wanted)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    total, count, words = 0.0, 0, Counter[int]()
    for row in range(len(prepared.evaluation)):
        ids = torch.tensor([prepared.evaluation[row]["input_ids"]])
        words.update(ids[0, 1:].tolist())
        with torch.no_grad():
            logits = model(ids).logits[0, :-1].double()
        total -= float(logits.log_softmax(-1).gather(1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    assert report["training"]["metrics"]["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
    frequencies = -sum(times * math.log(times / count) for times in words.values()) / count
    assert report["training"]["metrics"]["perplexity"] < 0.9 * math.exp(frequencies), "words in their places, not alone"


def test_what_is_hidden_is_a_function_of_seed_epoch_and_block(tmp_path: Path) -> None:
    prepared = TASKS["masked-lm"].prepare(asked("masked-lm", tmp_path))
    again = TASKS["masked-lm"].prepare(asked("masked-lm", tmp_path))
    first = [prepared.train.data[row] for row in range(20)]
    assert first == [again.train.data[row] for row in range(20)]
    prepared.train.set_epoch(1)
    assert first != [prepared.train.data[row] for row in range(20)]
    hidden = sum(
        label != -100 for row in range(len(prepared.train.data)) for label in prepared.train.data[row]["labels"]
    )
    tokens = sum(len(block) - 2 for block in prepared.train.data.blocks)
    assert 0.12 < hidden / tokens < 0.25, "15 %, and at least one of each short block"
    for row in first:
        for seen, label in zip(row["input_ids"], row["labels"], strict=True):
            assert label == -100 or label > 3, "special tokens are never hidden"
            assert seen is not None


def test_answers_are_found_across_windows(tmp_path: Path) -> None:
    """Contexts are longer than a window; whatever window holds the answer, its characters come back."""
    wanted = asked("question-answering", tmp_path, count=16)
    prepared = TASKS["question-answering"].prepare(wanted)
    found = squad.read(wanted.eval, "eval")
    measure: Any = prepared.measure
    assert len(measure.windows) > len(found)
    starts, ends = (torch.zeros(len(measure.windows), 24).numpy() for _ in range(2))
    for index, window in enumerate(measure.windows):
        row = answering.labelled(window, found[window.question].answers)
        starts[index, row["start_positions"]] = ends[index, row["end_positions"]] = 1
    assert measure.answers(starts, ends) == [question.answers[0][0] for question in found]
    assert squad.scores(measure.answers(starts, ends), found) == {"f1": 1.0, "exact_match": 1.0}
    measure.some_have_none = True  # saying nothing has a score of its own
    starts[:, measure.windows[0].null] = ends[:, measure.windows[0].null] = 2
    assert set(measure.answers(starts, ends)) == {""}


def test_a_span_is_the_best_pair_that_is_one() -> None:
    offsets = [None, (0, 3), (4, 6), (7, 9)]
    logits = torch.tensor([[9.0, 1, 3, 0], [9.0, 4, 1, 2]]).numpy()
    found = spans.span(logits[0], logits[1], offsets)
    assert found == spans.Span(5.0, 0, 1, 1, 0, 3), "an end before its start is no answer"


@pytest.mark.parametrize(
    ("answer", "truth", "f1", "exact"),
    [
        ("the Film!", "film", 1.0, 1.0),
        ("a long film", "long story", 0.5, 0.0),
        ("", "film", 0.0, 0.0),
        ("film film", "film", 2 / 3, 0.0),
    ],
)
def test_squad_compares_as_the_official_script(answer: str, truth: str, f1: float, exact: float) -> None:
    question = squad.Question("0", "q", truth, ((truth, 0),), "here")
    assert squad.scores([answer], [question]) == {"f1": pytest.approx(f1), "exact_match": exact}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O B-LOC", {("PER", 0, 1), ("LOC", 3, 3)}),
        ("I-PER I-PER B-PER", {("PER", 0, 1), ("PER", 2, 2)}),
        ("B-PER I-LOC", {("PER", 0, 0), ("LOC", 1, 1)}),
        ("S-PER B-LOC I-LOC E-LOC S-LOC", {("PER", 0, 0), ("LOC", 1, 3), ("LOC", 4, 4)}),
        ("O O", set()),
        ("B-A-B I-A-B", {("A-B", 0, 1)}),
    ],
)
def test_entities(tags: str, expected: set[Any]) -> None:
    assert entities.entities(tags.split()) == expected


def test_f1_of_entities_is_not_that_of_words() -> None:
    wanted, guessed = [["B-PER", "I-PER", "O"]], [["B-PER", "O", "O"]]
    assert entities.scores(guessed, wanted)["f1"] == 0.0
    assert entities.scores(wanted, wanted) == {"f1": 1.0, "precision": 1.0, "recall": 1.0}
    assert entities.scores([["NN", "VB"]], [["NN", "NN"]])["f1"] == 0.5, "parts of speech are counted word by word"


WRONG: list[tuple[str, str, str, str]] = [
    ("text-regression", ".csv", "score,sentence\n1,fine\nhigh,dull\n", r"train.csv:3: the label 'high' is not a finite number"),
    ("text-regression", ".csv", "score,sentence\n1,fine\n1,dull\n", r"all rows have the label 1"),
    ("token-classification", ".conll", "fine B-X\nalone\n", r"train.conll:2: a line has a word and its tag, got 'alone'"),
    ("token-classification", ".jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}\n', r"train.jsonl:1: 2 words, but 1 tags"),
    ("token-classification", ".jsonl", '{"tokens": "a b", "tags": ["O"]}\n', r"train.jsonl:1: 'tokens' is 'a b', not a list"),
    ("question-answering", ".json", '{"data": [{"title": "x"}]}', r"train.json: data\[0\]: 'paragraphs' is missing, or no list"),
    (
        "question-answering", ".jsonl",
        '{"question": "q", "context": "the film", "answers": [{"text": "song", "answer_start": 4}]}\n',
        r"train.jsonl:1: the answer 'song' is not at 4: there is 'film'",
    ),
    ("question-answering", ".jsonl", '{"question": "q", "context": "the film"}\n', r"there is no column 'answers'"),
    ("causal-lm", ".txt", " \n\n", r"train.txt: there is no text in it"),
    ("masked-lm", ".jsonl", '{"text": 3}\n', r"train.jsonl:1: 'text' is 3, not text"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "suffix", "content", "message"), WRONG)
def test_wrong_data_say_where(task: str, suffix: str, content: str, message: str, tmp_path: Path) -> None:
    wanted = asked(task, tmp_path)
    file = tmp_path / f"train{suffix}"
    file.write_text(content)
    options = {"label_column": None} if suffix == ".jsonl" else {}
    with pytest.raises(DataError, match=message):
        run(replace(wanted, train=str(file), **options), None, tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()


def test_models_without_the_head_or_the_token_are_refused(tmp_path: Path) -> None:
    wanted = asked("causal-lm", tmp_path)
    vit = tmp_path / "vit"
    from transformers import ViTConfig, ViTForImageClassification

    ViTForImageClassification(
        ViTConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4
        )
    ).save_pretrained(vit)
    with pytest.raises(PlanError, match=r"has no head for causal-lm \(it has one for --task image-classification\)"):
        run(replace(wanted, model=str(vit)), None, tmp_path / "out")
    with pytest.raises(PlanError, match="a bert model sees the tokens that come next"):
        run(replace(wanted, model=str(tmp_path / "bert")), None, tmp_path / "out")
    with pytest.raises(PlanError, match="its tokenizer has no mask token"):
        run(replace(wanted, task="masked-lm", model=str(tmp_path / "bert")), None, tmp_path / "out")


def test_layers_are_measured_on_the_data_of_the_flag(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.parse(
        "version: 1\nmodifiers:\n  - {type: layer_drop, keep: {count: 1, rule: block-influence}}\n"
        "  - {type: prune, sparsity: 0.5}\n"
    )
    with pytest.raises(PlanError, match="give them as --calibration FILE"):
        run(settings(place), recipe, tmp_path / "out")
    wanted = settings(place, calibration=str(place / "eval.tsv"))
    loads: list[Any] = []
    found = heads.auto_class

    def noted(config: Any, task: str, wide: Any = None) -> Any:
        maker, kind = found(config, task, wide)
        real = maker.from_pretrained
        monkeypatch.setattr(maker, "from_pretrained", lambda *a, **more: loads.append(kind) or real(*a, **more))
        return maker, kind

    monkeypatch.setattr(models.heads, "auto_class", noted)
    report = run(wanted, recipe, tmp_path / "out")
    assert len(loads) == 1, "the data are read for the model that is there"
    (change,) = report["plan"]["structure"] if "plan" in report else report["structure"]
    assert len(change["kept"]) == 1
    assert len(change["scores"]) == 2
    assert (
        len({name.split(".")[3] for name in load_file(tmp_path / "out" / "model.safetensors") if ".layer." in name})
        == 1
    )
    with pytest.raises(PlanError, match="--calibration is for a --recipe that measures layers"):
        run(wanted, Recipe.parse(PRUNE), tmp_path / "other")


def test_tags_of_a_dataset_have_the_names_that_it_says(tmp_path: Path) -> None:
    import datasets

    from sparsify.train import tokens

    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-X"])),
        }
    )
    data = datasets.Dataset.from_dict({"tokens": [["fine", "film"]], "ner_tags": [[1, 0]]}, features=features)
    data.save_to_disk(str(tmp_path / "data"))
    found = tokens.read(settings(tmp_path, task="token-classification"), str(tmp_path / "data"), "train")
    assert found.tags == [["B-X", "O"]]
