"""Encoder and decoder of two families, and the vision transformers that both majors of transformers name differently."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import Manager, Plan
from sparsify.anatomy import read
from tests.anatomy.declared import IMAGE, PLAIN, N, make
from tests.loop import recipe
from tests.majors import of_transformers


def mixed(decoder: str) -> Any:
    """Return a ViT that a text model reads across."""
    torch.manual_seed(0)
    text = of_transformers(f"{decoder}Config")(
        **(N if decoder == "GPT2" else PLAIN), is_decoder=True, add_cross_attention=True
    )
    made = of_transformers("VisionEncoderDecoderModel")(
        encoder=of_transformers("ViTModel")(of_transformers("ViTConfig")(**IMAGE), add_pooling_layer=False),
        decoder=of_transformers({"Bert": "BertLMHeadModel", "GPT2": "GPT2LMHeadModel"}[decoder])(text),
    ).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def logits(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    pixels, tokens = torch.randn(2, 3, 32, 32, generator=generator), torch.randint(2, 40, (2, 6), generator=generator)
    with torch.no_grad():
        found: Tensor = model(pixel_values=pixels, decoder_input_ids=tokens, use_cache=False).logits
    return found


@pytest.mark.parametrize(("decoder", "families"), [("Bert", ("bert", "vit")), ("GPT2", ("gpt2", "vit"))])
def test_an_encoder_for_images_and_a_decoder_for_text(decoder: str, families: tuple[str, ...]) -> None:
    model = mixed(decoder)
    anatomy = read(model)
    assert anatomy is not None
    assert (anatomy.families, anatomy.inferred) == (families, ())
    crossing = [block for block in anatomy.attentions if "crossattention" in block.name]
    assert [(block.heads, block.groups, block.doubt) for block in crossing] == [(4, 4, "")] * 2
    plan = Plan.of(recipe(targets=""), model, total_steps=99)
    assert plan.coverage is not None
    assert plan.coverage.share == 1


@pytest.mark.parametrize("pattern", ["head", "neuron"])
@pytest.mark.parametrize("decoder", ["Bert", "GPT2"])
def test_what_is_pruned_has_no_effect(decoder: str, pattern: str) -> None:
    """What a dead head or neuron computes may be anything: nothing reads it."""
    model = mixed(decoder)
    fields = {"targets": "", "pattern": pattern, "sparsity": "{to: 0.5, curve: constant}", "window": ""}
    manager = Manager(recipe(**fields)).apply(model, torch.optim.SGD(model.parameters(), lr=0.1))
    plan: Any = manager.plan.modifiers[0]
    assert len(plan.competition.bundles) == (6 if pattern == "head" else 4)
    sparse = logits(model)
    for bundle in plan.competition.bundles:
        for weight in (part.weight for part in bundle.parts[:-1]):  # the last is what reads them
            weight.tensor.add_(torch.randn(weight.shape) * ~manager._masks.of(weight))
    assert bool((logits(mixed(decoder)) - sparse).abs().max() > 0.01)
    torch.testing.assert_close(logits(model), sparse, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["ViTForImageClassification", "DeiTForImageClassification"])
def test_vision_transformers_are_known_with_their_embeddings(kind: str) -> None:
    anatomy = read(make(kind))
    assert anatomy is not None
    assert (anatomy.families, anatomy.inferred) == (("vit",), ())
    assert [weight.name.split(".")[-4:] for weight in anatomy.embeddings] == [
        ["embeddings", "patch_embeddings", "projection", "weight"]
    ]
    assert [(block.heads, block.doubt) for block in anatomy.attentions] == [(4, "")] * 2
    assert [weight.name for weight in anatomy.task_head] == ["classifier.weight"]


class Pooled(nn.Module):
    """Attention whose keys and values come from one matrix."""

    def __init__(self, swapped: bool) -> None:
        super().__init__()
        self.num_heads, self.swapped = 4, swapped
        self.q, self.kv, self.proj = nn.Linear(32, 32), nn.Linear(32, 64), nn.Linear(32, 32)

    def forward(self, states: Tensor) -> Tensor:
        def split(part: Tensor) -> Tensor:
            return part.unflatten(-1, (4, 8)).transpose(1, 2)

        if self.swapped:  # the key and the value of each head lie together
            key, value = self.kv(states).unflatten(-1, (4, 16)).transpose(1, 2).chunk(2, dim=-1)
        else:
            key, value = (split(part) for part in self.kv(states).chunk(2, dim=-1))
        attended = nn.functional.scaled_dot_product_attention(split(self.q(states)), key, value)
        return self.proj(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, swapped: bool) -> None:
        super().__init__()
        self.attn = Pooled(swapped)
        self.norm = nn.LayerNorm(32)

    def forward(self, states: Tensor) -> Tensor:
        found: Tensor = self.norm(states + self.attn(states))
        return found


@pytest.mark.parametrize("swapped", [False, True])
def test_keys_and_values_of_one_matrix_are_tried_too(swapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    anatomy = read(nn.Sequential(*(Block(swapped) for _ in range(3))))
    assert anatomy is not None
    first = anatomy.attentions[0]
    assert [weight.name for weight in first.projections] == [
        "0.attn.q.weight", "0.attn.kv.weight[0:32]", "0.attn.kv.weight[32:64]"
    ]  # fmt: skip
    assert first.doubt == "" if not swapped else "not so when it was tried" in first.doubt


def test_the_cross_attention_of_gpt2_is_what_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    def blocks() -> list[Any]:
        anatomy = read(mixed("GPT2"))
        assert anatomy is not None
        return [(b.name, b.doubt, [weight.name for weight in b.projections]) for b in anatomy.attentions]

    declared = blocks()
    assert len(declared) == 6
    monkeypatch.setattr(sys.modules["sparsify.anatomy.read"], "architectures", lambda: [])
    assert declared == blocks()
