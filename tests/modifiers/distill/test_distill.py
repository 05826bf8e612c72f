"""`distill` in a loop of one's own: which positions count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.modifiers.distill.by_hand import gradients, kd, reference, the_same
from tests.modifiers.distill.students import apply, batch, bert, gpt, step

# ---------------------------------------------------------------------- which positions count


@pytest.mark.parametrize("hardness", [None, 0.3, 1.0])
def test_classification(hardness: float | None) -> None:
    student, teacher, inputs = bert(), bert(seed=1), batch()

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**inputs), teacher(**inputs)
        soft = kd(outputs.logits, taught.logits.detach(), 2.0)
        return outputs.loss + 0.7 * soft if hardness is None else (1 - hardness) * outputs.loss + hardness * 0.7 * soft

    wanted = reference(student, by_hand)
    hard = "" if hardness is None else f", hardness: {hardness}"
    manager, optimizer = apply(student, f"logits: {{temperature: 2, weight: 0.7}}{hard}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


def test_tokens_that_are_padding_or_unlabelled_are_left_out() -> None:
    labels = torch.tensor([[0, 1, 2, 0, -100, 1], [1, 1, 0, 2, -100, -100], [0] * 6, [2, 1, 0, -100, -100, -100]])
    student, teacher, inputs = bert("TokenClassification"), bert("TokenClassification", seed=1), batch(labels=labels)

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**inputs), teacher(**inputs)
        valid = labels != -100
        return outputs.loss + kd(outputs.logits[valid], taught.logits.detach()[valid], 3.0)

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {temperature: 3}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


def test_without_labels_padding_alone_is_left_out() -> None:
    student, teacher = bert("TokenClassification"), bert("TokenClassification", seed=1)
    inputs = {name: value for name, value in batch().items() if name != "labels"}

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**inputs), teacher(**inputs)
        valid = inputs["attention_mask"].bool()
        return outputs.logits.square().mean() + kd(outputs.logits[valid], taught.logits.detach()[valid], 1.0)

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    step(manager, student, optimizer, inputs, lambda outputs: outputs.logits.square().mean())
    the_same(gradients(student), wanted)


def test_question_answering_has_two_heads_over_what_is_no_padding() -> None:
    student, teacher = bert("QuestionAnswering", num_labels=2), bert("QuestionAnswering", seed=1, num_labels=2)
    spans = {"start_positions": torch.tensor([0, 1, 2, 0]), "end_positions": torch.tensor([3, 2, 5, 1])}
    inputs = batch(**spans)

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**inputs), teacher(**inputs)
        parts = []
        for row in range(4):
            real = inputs["attention_mask"][row].bool()
            for name in ("start_logits", "end_logits"):
                parts.append(kd(outputs[name][row][real], taught[name][row][real].detach(), 2.0))
        return outputs.loss + torch.stack(parts).mean()

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {temperature: 2}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


def test_a_causal_model_is_taught_where_the_next_token_counts() -> None:
    student, teacher, inputs = gpt(0), gpt(1), batch()
    inputs["labels"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**inputs), teacher(**inputs)
        valid = inputs["labels"][:, 1:] != -100
        return outputs.loss + kd(outputs.logits[:, :-1][valid], taught.logits[:, :-1][valid].detach(), 1.0)

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


def test_masked_language_models_are_taught_where_tokens_are_masked() -> None:
    student, teacher, inputs = bert("MaskedLM"), bert("MaskedLM", seed=1), batch()
    inputs["labels"] = torch.full((4, 6), -100)
    inputs["labels"][:, 1] = 7

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**inputs), teacher(**inputs)
        return outputs.loss + kd(outputs.logits[:, 1], taught.logits[:, 1].detach(), 1.0)

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


def test_hidden_states_without_their_padding() -> None:
    student, teacher, inputs = bert(), bert(seed=1), batch()

    def by_hand(model: Any) -> Tensor:
        outputs, taught = (m(**inputs, output_hidden_states=True) for m in (model, teacher))
        real = inputs["attention_mask"].bool()
        pairs = zip(outputs.hidden_states[1:], taught.hidden_states[1:], strict=True)
        return outputs.loss + 0.5 * sum(
            (s[real] - t[real].detach()).square().sum() / t[real].detach().square().sum() for s, t in pairs
        )

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "hidden: {loss: squarehead, weight: 0.5}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


@pytest.mark.parametrize("loss", ["mse", "cosine"])
def test_other_losses_of_hidden_states_and_chosen_layers(loss: str) -> None:
    student, teacher, inputs = bert(), bert(seed=1, layers=3), batch()

    def by_hand(model: Any) -> Tensor:
        outputs, taught = (m(**inputs, output_hidden_states=True) for m in (model, teacher))
        real = inputs["attention_mask"].bool()
        s, t = outputs.hidden_states[2][real], taught.hidden_states[3][real].detach()
        each = (s - t).square().mean(-1) if loss == "mse" else 1 - F.cosine_similarity(s, t, dim=-1)
        return outputs.loss + each.mean()

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, f"hidden: {{loss: {loss}, layers: [[1, 2]]}}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


def test_attention_maps_without_rows_of_padding() -> None:
    eager = {"attn_implementation": "eager"}
    student, teacher, inputs = bert(**eager), bert(seed=1, **eager), batch()

    def by_hand(model: Any) -> Tensor:
        outputs, taught = (m(**inputs, output_attentions=True) for m in (model, teacher))
        real = inputs["attention_mask"].bool()
        total = outputs.loss
        for s, t in zip(outputs.attentions, taught.attentions, strict=True):
            rows = real[:, None].expand(s.shape[:3])
            total = total + (s - t.detach()).square().mean(-1)[rows].mean()
        return total

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "attention: {}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)
