"""Models for plans, made of configurations alone: those that training would train, or one clear error."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from sparsify import Plan, PlanError, Recipe
from sparsify.configs import config_of
from sparsify.errors import first_line
from sparsify.heads import AUTO, LABELLED, declares_ahead, set_regression
from sparsify.pretrained import load as load_folder
from sparsify.pretrained import planned
from sparsify.train.labels import Labels
from sparsify.train.language import _looks_ahead
from sparsify.train.model import config_for, load
from tests.models import MODELS

BERT: dict[str, Any] = {
    "model_type": "bert", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
    "intermediate_size": 64,
}  # fmt: skip
XLM = {"emb_dim": 32, "n_heads": 4, "n_layers": 1, "init_std": 1.0, "embed_init_std": 1.0}
LABELS = Labels(("a", "b", "c"))
PAIRS = [
    ("bert", "text-classification"), ("bert", "text-regression"), ("bert", "token-classification"),
    ("bert", "question-answering"), ("bert", "masked-lm"), ("roberta", "text-classification"),
    ("roberta", "masked-lm"), ("distilbert", "text-classification"), ("vit", "image-classification"),
    ("gpt2", "causal-lm"), ("llama", "causal-lm"), ("llama", "text-classification"), ("bart", "causal-lm"),
    ("t5", "text-classification"),
]  # fmt: skip


def folder_of(path: Path, config: object) -> str:
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(path)


def described(model: nn.Module) -> list[tuple[str, tuple[int, ...], torch.dtype, bool]]:
    return [(name, tuple(p.shape), p.dtype, p.requires_grad) for name, p in model.named_parameters()]


@pytest.mark.parametrize("head", [False, True], ids=["base", "with another head"])
@pytest.mark.parametrize(("family", "task"), PAIRS)
def test_the_model_of_a_task_is_that_of_train(tmp_path: Path, family: str, task: str, head: bool) -> None:
    made = MODELS[family]
    kind = getattr(transformers, made.kind)
    whole = kind(kind.config_class(**made.config))
    (whole if head else whole.base_model).save_pretrained(tmp_path)
    config = config_for(str(tmp_path), task)
    if task == "text-regression":
        set_regression(config)
    trained, said = load(str(tmp_path), task, config, LABELS if task in LABELLED else None)
    for path in tmp_path.iterdir():
        if path.name != "config.json":
            path.unlink()
    shape, notes = planned(str(tmp_path), task, len(LABELS.names) if task in LABELLED else None)
    assert type(shape) is type(trained)
    assert described(shape) == described(trained)
    assert notes == said
    assert {parameter.device.type for parameter in shape.parameters()} == {"meta"}
    recipe = Recipe.parse('version: 1\nmodifiers: [{type: prune, targets: "*", sparsity: 0.5}]')
    plans = [Plan.of(recipe, model, total_steps=100) for model in (shape, trained)]
    assert plans[0].to_json() == plans[1].to_json()


def test_without_a_number_of_labels_the_note_says_where_it_comes_from(tmp_path: Path) -> None:
    shape, notes = planned(folder_of(tmp_path, {**BERT, "architectures": ["BertModel"]}), "text-classification")
    assert shape.get_parameter("classifier.weight").shape == (2, 32)
    assert notes == [
        "the head has 2 labels, as config.json says; train gives it those of the data",
        "new, with random weights: classifier.bias, classifier.weight",
    ]


def test_a_head_that_fits_is_not_new(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {**BERT, "architectures": ["BertForSequenceClassification"]})
    assert planned(folder, "text-classification", 2)[1] == []
    assert "classifier.weight" in planned(folder, "text-classification", 3)[1][0]


def test_a_head_that_there_is_not(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {**BERT, "architectures": ["BertModel"]})
    with pytest.raises(PlanError, match=r"a bert model \(BertModel\) has no head for image-classification"):
        planned(folder, "image-classification")


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("bert", {}), ("bert", {"is_decoder": True}), ("roberta", {}), ("electra", {}),
        ("gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 1}), ("bart", {"d_model": 32}),
        ("xlm", {**XLM, "causal": True}),
        ("xlnet", {"d_model": 32, "n_head": 4, "n_layer": 1, "d_inner": 64}),
    ],
)  # fmt: skip
def test_what_reads_in_both_directions_is_known_without_weights(kind: str, sizes: dict[str, Any]) -> None:
    sides = {f"{side}_{key}": 2 for side in ("encoder", "decoder") for key in ("layers", "attention_heads", "ffn_dim")}
    given = sizes if "d_model" in sizes or "emb_dim" in sizes or "n_embd" in sizes else {**BERT, **sizes}
    config = transformers.CONFIG_MAPPING[kind](
        **{**given, "vocab_size": 50, **(sides if kind == "bart" else {}), "pad_token_id": 0}
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert declares_ahead(model) == _looks_ahead(model, config)


def test_causal_training_of_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="sees the tokens that come next"):
        planned(folder_of(tmp_path, {**BERT, "architectures": ["BertModel"]}), "causal-lm")


@pytest.mark.parametrize(
    ("named", "note"),
    [
        (["BertForMaskedLM"], None),
        ("BertForMaskedLM", None),
        ([], "config.json names no architecture"),
        (None, "config.json names no architecture"),
        (["pipeline"], "names the architecture 'pipeline', which is no class of a bert model"),
        (["BertConfig"], "names the architecture 'BertConfig', which is no class"),
        (["PreTrainedModel"], "names the architecture 'PreTrainedModel', which is no class"),
        (["AutoModelForMaskedLM"], "names the architecture 'AutoModelForMaskedLM', which is no class"),
        (["LlamaForCausalLM"], "names the architecture 'LlamaForCausalLM', which is no class of a bert model"),
        ([7], "names the architecture '7', which is no class"),
    ],
)
def test_what_the_configuration_names_decides_or_a_note_says_so(
    tmp_path: Path, named: object, note: str | None
) -> None:
    shape, notes = planned(folder_of(tmp_path, {**BERT, "architectures": named}))
    assert type(shape).__name__ == ("BertForMaskedLM" if note is None else "BertModel")
    assert len(notes) == (note is not None)
    if note is not None:
        assert note in notes[0]
        assert notes[0].endswith("planned on the bare model (BertModel); --task says which head train adds")


TIMM = {"model_type": "detr", "architectures": ["DetrForObjectDetection"], "use_timm_backbone": True, "backbone": "x"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**BERT, "num_attention_heads": 5, "architectures": ["BertModel"]}, "no model can be made of its config.json"),
        ({**BERT, "num_attention_heads": 5}, "no model can be made of its config.json"),
        ({**BERT, "hidden_act": "nosuch", "architectures": ["BertModel"]}, "no model can be made.*there is no 'nosuch'"),
        ({**BERT, "hidden_size": 10**12}, "no model can be made of its config.json"),
        ({**BERT, "hidden_size": "big"}, "config.json cannot be used: .*hidden_size"),
        ({**BERT, "id2label": {"a": "b"}}, "config.json cannot be used"),
        ({**BERT, "model_type": "brt"}, r"the model_type 'brt', which .* does not know \(did you mean 'bert'\?\).*Plan.of"),
        ({**BERT, "model_type": 7}, "the model_type 7, which .* does not know"),
        ({"hidden_size": 32}, "has no model_type"),
        ({**BERT, "num_hidden_layers": 10**9}, r"1000000000 layers \(num_hidden_layers\)"),
        ({"model_type": "gpt2", "n_layer": 10**9}, r"1000000000 layers \(n_layer\)"),
        ({"model_type": "llava", "text_config": {"num_hidden_layers": 10**9}}, r"\(text_config.num_hidden_layers\)"),
        ({**BERT, "quantization_config": {"quant_method": "awq"}}, r"weights are quantized \(awq\).* as it was before"),
        ({**BERT, "compression_config": {"format": "x"}}, r"weights are quantized \(compression_config\)"),
        ({"model_type": "llava", "text_config": {"quantization_config": {"quant_method": "fp8"}}}, r"quantized \(fp8\)"),
        ([1], "is no configuration"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_one_clear_error(tmp_path: Path, config: object, message: str) -> None:
    for task in (None, "text-classification"):
        with pytest.raises(PlanError, match=message) as error:
            planned(folder_of(tmp_path, config), task)
        assert str(error.value).startswith(str(tmp_path))
        assert len(error.value.problems) == 1
        assert "\n" not in str(error.value)


def test_no_quantization_is_none(tmp_path: Path) -> None:
    planned(folder_of(tmp_path, {**BERT, "quantization_config": None, "architectures": ["BertModel"]}))


@pytest.mark.skipif(bool(transformers.utils.is_timm_available()), reason="what is missing here is installed")
def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="requires the timm library.*pip install timm"):
        planned(folder_of(tmp_path, TIMM))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\0", '"text"', "7"])
def test_what_is_no_configuration_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(PlanError, match="config.json (cannot be read|is no configuration)"):
        planned(str(tmp_path))


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(PlanError, match="that of an adapter: merge it"):
        planned(str(tmp_path))


@pytest.fixture
def own_code(tmp_path: Path) -> Path:
    """Return a folder with code that must never be run."""
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    return tmp_path


OWN = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model", "AutoModelForSequenceClassification": "mine.Model"}


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every question an error of its own."""

    def ask(question: str = "") -> str:
        raise AssertionError(f"asked: {question}")

    monkeypatch.setattr("builtins.input", ask)


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize("task", [None, "text-classification"])
def test_code_of_its_own_is_an_error_that_says_what_to_do(own_code: Path, task: str | None) -> None:
    for config in ({"model_type": "mine", "auto_map": OWN}, {"auto_map": OWN}):
        with pytest.raises(
            PlanError, match=r"code of its own \(auto_map\), which is never run: load the model yourself"
        ):
            planned(folder_of(own_code, config), task)
    assert not (own_code / "ran").exists()


@pytest.mark.usefixtures("silence")
def test_where_transformers_has_the_model_its_own_code_is_passed_over(own_code: Path) -> None:
    config = transformers.BertConfig(**{key: value for key, value in BERT.items() if key != "model_type"})
    transformers.BertModel(config).save_pretrained(own_code)
    written = json.loads((own_code / "config.json").read_text())
    folder = folder_of(own_code, {**written, "auto_map": OWN})
    for task in (None, "text-classification"):
        shape, notes = planned(folder, task)
        assert type(shape).__module__ == "transformers.models.bert.modeling_bert"
        assert "which is never run: this is transformers' own bert" in notes[-1]
    load(folder, "text-classification", config_for(folder, "text-classification"), None)
    load_folder(folder)
    assert not (own_code / "ran").exists()


def test_names_that_are_not_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("nobody/has-this", "nobody-has-this", "a\0b", ""):
        with pytest.raises(PlanError, match="its configuration cannot be loaded"):
            config_of(name)


def test_every_task_has_a_class_of_transformers() -> None:
    assert all(hasattr(transformers, kind) for kind in AUTO.values())


def test_an_error_of_two_lines_is_told_whole_where_the_first_only_announces() -> None:
    assert first_line(ValueError("\nin field 'x':\n   expected int\nmore")) == "in field 'x': expected int"
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(KeyError("x")) == "there is no 'x'"
    assert first_line(RuntimeError()) == "RuntimeError"


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        planned(folder_of(tmp_path, {**BERT, "architectures": ["BertModel"]}), "text-classification")
    assert capfd.readouterr() == ("", "")
