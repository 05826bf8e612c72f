"""What a recipe leaves out of a model is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sparsify import Plan, PlanError, Recipe
from sparsify.anatomy import read
from sparsify.anatomy.coverage import coverage
from tests.anatomy.test_inference import GROUPED, IMAGE, Layer
from tests.loop import recipe


class Mixed(nn.Module):
    """A layer that is covered, and a matrix that no layer holds: a raw parameter of `rows` × 16."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Layer(), Layer()])
        self.mixing = nn.Parameter(torch.randn(rows, 16))
        self.position_table = nn.Parameter(torch.randn(100, 16))
        self.lm_head = nn.Linear(16, 4)


INSIDE = 2 * (4 * 16 * 16 + 2 * 16 * 32)


def planned(model: nn.Module, **fields: Any) -> Plan:
    return Plan.of(recipe(**fields), model, total_steps=99)


def test_less_than_everything_is_a_note() -> None:
    (note,) = planned(Mixed(64), targets="").notes
    assert note == (
        f"prune: covers 80 % of the {INSIDE + 1024:,} matrix weights; not covered, 1,024: mixing (Mixed, a parameter "
        "of 2 dimensions)"
    )


def test_less_than_half_is_an_error_that_says_how_to_go_on() -> None:
    with pytest.raises(PlanError, match=r"covers 44 % of the 9,216 matrix weights.*or write `allow_partial: true`"):
        planned(Mixed(320), targets="")
    (note,) = planned(Mixed(320), targets="", allow_partial="true").notes
    assert "covers 44 %" in note
    assert planned(Mixed(320), targets='"blocks.*"').notes == (), "what is named is meant"
    assert planned(Mixed(320), targets="attention").notes == ()


def test_tables_heads_and_vectors_do_not_count() -> None:
    model = Mixed(0)
    found = coverage(model, read(model), read(model).role("default"))  # type: ignore[union-attr]
    assert (found.covered, found.total, found.missed, found.share) == (INSIDE, INSIDE, (), 1.0)
    assert str(found) == f"covers 100 % of the {INSIDE:,} matrix weights"


def test_frozen_weights_are_counted_apart() -> None:
    model = Mixed(64)
    model.blocks[0].requires_grad_(False)
    found = coverage(model, read(model), read(model).role("attention"))  # type: ignore[union-attr]
    assert found.frozen == INSIDE // 2
    assert str(found).endswith(f"; {INSIDE // 2:,} of them are frozen")
    assert found.to_dict()["missed"][0] == {"name": "blocks.*.net.*", "weights": 2048, "why": ""}


def test_part_of_a_parameter_counts_as_part() -> None:
    model = nn.ModuleList([nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)])
    anatomy = read(model)
    found = coverage(model, anatomy, anatomy.role("attention.query"))  # type: ignore[union-attr]
    assert found.covered == 16 * 16
    assert found.total == 4 * 16 * 16 + 2 * 16 * 32


def test_both_towers_of_a_model_that_sees_and_reads() -> None:
    """A language model and its tower for images, each of its own family: nothing is left out, the projector neither."""
    import transformers

    vision = transformers.CLIPVisionConfig(**IMAGE)
    text = transformers.LlamaConfig(**GROUPED)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_id=2)
    model = transformers.LlavaForConditionalGeneration(config)
    anatomy = read(model)
    assert anatomy is not None
    assert anatomy.families == ("clip", "llama")
    assert planned(model, targets="").notes == ()
    heads = {weight.parameter_name for weight in anatomy.task_head}
    assert heads == {"lm_head.weight"}
    assert any("patch_embedding" in weight.parameter_name for weight in anatomy.embeddings)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")
def test_adapters_are_no_targets_and_the_model_is_seen_through_them() -> None:
    """LoRA: `default` is what it was without them, and heads are still found; a lock lets them learn."""
    peft = pytest.importorskip("peft")
    from tests.models import build

    model = build("bert")
    wanted = [weight.name for weight in read(model).role("default")]  # type: ignore[union-attr]
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query", "value"], r=2, task_type="SEQ_CLS"))
    anatomy = read(adapted)
    assert anatomy is not None
    found = [
        weight.name.replace("base_model.model.", "").replace("base_layer.", "") for weight in anatomy.role("default")
    ]
    assert sorted(found) == sorted(wanted)
    assert [block.heads for block in anatomy.attentions] == [2, 2]
    assert not any("lora" in weight.name for role in anatomy.roles() for weight in anatomy.role(role))
    plan = Plan.of(
        Recipe.parse("version: 1\nmodifiers:\n  - {type: prune, criterion: existing}\n"), adapted, total_steps=9
    )
    assert plan.coverage is not None
    assert plan.coverage.share == 1
    assert f"{plan.coverage.total:,} of them are frozen" in plan.closing()
