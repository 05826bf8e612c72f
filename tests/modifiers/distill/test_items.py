"""By which number losses are divided: what is added weighs as the task's own loss does, whatever the model makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from sparsify.modifiers.distill.items import divides_by_items
from tests.modifiers.distill.students import SIZES, apply, batch, bert

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")  # PEFT's

LLAMA = {key: value for key, value in SIZES.items() if "dropout" not in key} | {"pad_token_id": 0}
VIT = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 8, "patch_size": 4}


def llama(kind: str) -> Any:
    config = transformers.LlamaConfig(**LLAMA, num_hidden_layers=1, num_labels=3)
    return getattr(transformers, f"LlamaFor{kind}")(config)


def vit(**more: Any) -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**VIT, num_hidden_layers=1, **more))


def adapted(model: Any) -> Any:
    pytest.importorskip("peft")
    from tests.adapted import lora

    return lora(model)


def resnet() -> Any:
    sizes = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "num_labels": 3}
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes))


def tokens(*, words: bool) -> dict[str, torch.Tensor]:
    inputs = batch()
    return {**inputs, "labels": inputs["input_ids"] % 3} if words else inputs


def images(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.rand(4, 3, 8, 8), "labels": labels}


CASES: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, torch.Tensor]]]] = {
    "BERT, a sequence": (bert, lambda: tokens(words=False)),
    "BERT, hidden words": (lambda: bert("MaskedLM"), lambda: tokens(words=True)),
    "Llama, a sequence": (lambda: llama("SequenceClassification"), lambda: tokens(words=False)),
    "Llama, tokens": (lambda: llama("TokenClassification"), lambda: tokens(words=True)),
    "Llama, the next word": (lambda: llama("CausalLM"), lambda: tokens(words=True)),
    "Llama under an adapter": (lambda: adapted(llama("CausalLM")), lambda: tokens(words=True)),
    "ViT": (lambda: vit(num_labels=3), lambda: images(torch.tensor([0, 1, 2, 1]))),
    "ViT, one number": (lambda: vit(num_labels=1), lambda: images(torch.rand(4))),
    "ViT, several labels": (
        lambda: vit(num_labels=3, problem_type="multi_label_classification"),
        lambda: images(torch.rand(4, 3).round()),
    ),
    "ResNet": (resnet, lambda: images(torch.tensor([0, 1, 2, 1]))),
}


@pytest.mark.parametrize("name", CASES)
def test_whether_a_model_divides_by_the_number_is_what_it_does(name: str) -> None:
    make, inputs_of = CASES[name]
    torch.manual_seed(0)
    model, inputs = make().train(), inputs_of()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    numbers = torch.tensor(10), torch.tensor(20)
    try:
        one, two = (float(model(**inputs, num_items_in_batch=number).loss.detach()) for number in numbers)
    except TypeError as error:  # transformers 4 gives it to fewer models
        pytest.skip(str(error))
    assert divides_by_items(model) == (one == pytest.approx(2 * two, rel=1e-4))
    assert divides_by_items(model) or one == pytest.approx(two, rel=1e-4)


@pytest.mark.parametrize("name", ["Llama, a sequence", "Llama, the next word", "Llama under an adapter"])
def test_a_micro_batch_has_its_share_of_both_losses(name: str) -> None:
    """The term ÷ the task's loss is the same with the number and without; also where the loop's batch lacks it."""
    make, inputs_of = CASES[name]
    torch.manual_seed(0)
    student, inputs = make(), inputs_of()
    torch.manual_seed(1)
    manager, _ = apply(student, "logits: {loss: mse}", teacher=make())
    manager.on_step_begin()
    found = []
    for given in ({}, {"num_items_in_batch": torch.tensor(100)}):
        for told in (None, inputs):
            outputs = student(**inputs, **given)
            found.append(float((manager.on_loss(outputs.loss, outputs, told) / outputs.loss).detach()))
    assert found == pytest.approx([found[0]] * 4, rel=1e-4)
    assert found[0] > 1 + 1e-6
