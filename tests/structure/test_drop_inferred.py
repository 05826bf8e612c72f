"""Layer dropping in families that nobody has declared: where it was tried and is right, and where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import Manager, Plan, PlanError, Recipe
from tests.anatomy.declared import PAIR, PLAIN
from tests.structure.test_drop_declared import outputs, skip

FALCON = {name: value for name, value in PLAIN.items() if name != "intermediate_size"}
KNOWN: dict[str, tuple[str, dict[str, Any], str]] = {
    "falcon": ("FalconForCausalLM", {**FALCON, "num_hidden_layers": 4}, "transformer.h"),
    "gpt-bigcode": ("GPTBigCodeForCausalLM", {"n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": 40}, "transformer.h"),
    "prophetnet": (
        "ProphetNetForConditionalGeneration",
        {"hidden_size": 32, "vocab_size": 40, "num_encoder_layers": 4, "num_decoder_layers": 3,
         "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "encoder_ffn_dim": 64,
         "decoder_ffn_dim": 64, "decoder_start_token_id": 0},
        "prophetnet.decoder.layers",
    ),
    "nllb-moe": (
        "NllbMoeForConditionalGeneration",
        {**PAIR, "encoder_layers": 2, "decoder_layers": 3, "num_experts": 4, "decoder_sparse_step": 0,
         "encoder_sparse_step": 0},
        "model.decoder.layers",
    ),
}  # fmt: skip


def drop(stack: str, kept: list[int]) -> Recipe:
    """Return a recipe that keeps some layers."""
    return Recipe.parse(f"version: 1\nmodifiers:\n  - {{type: layer_drop, keep: {kept}, stack: {stack}}}\n")


def build(name: str) -> Any:
    """Return a small model with random weights."""
    import transformers

    torch.manual_seed(0)
    kind, config, _ = KNOWN[name]
    model = getattr(transformers, kind)
    return model(model.config_class(**config)).eval()


@pytest.mark.parametrize("name", KNOWN)
def test_stock_transformers_loads_what_is_left(name: str, tmp_path: Path) -> None:
    stack = KNOWN[name][2]
    model, whole = build(name), build(name)
    count = len(model.get_submodule(stack))
    Manager(drop(stack, [0, *range(2, count)])).attach(model)
    assert len(model.get_submodule(stack)) == count - 1
    whole.get_submodule(f"{stack}.1").register_forward_hook(skip, with_kwargs=True)
    found = outputs(model)
    torch.testing.assert_close(found, outputs(whole), atol=1e-5, rtol=1e-4)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(outputs(type(model).from_pretrained(tmp_path).eval()), found, atol=1e-6, rtol=1e-5)


class Block(nn.Module):
    """A residual block by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(torch.relu(self.fc1(x)))


class Net(nn.Module):
    """Blocks by hand; `kind` says what else depends on their number."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.kind = kind
        self.embed = nn.Linear(4, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.scales = nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = first = self.embed(x)
        for number, block in enumerate(self.blocks):
            if self.kind == "scaled":
                x = block(x) * self.scales[number]
            elif self.kind == "mean":
                x = block(x) / len(self.blocks)
            elif self.kind == "last":
                x = block(x) + (first if number == 3 else 0)
            else:
                x = block(x)
        if self.kind == "by number":
            x = x + self.blocks[3](first)
        return x


def test_a_model_by_hand() -> None:
    torch.manual_seed(0)
    model = Net()
    left = [model.blocks[number] for number in (0, 2, 3)]
    plan = Plan.of(drop("blocks", [0, 2, 3]), model)
    assert len(model.blocks) == 4, "a plan changes nothing"
    assert "3 of 4: 0, 2, 3" in str(plan.modifiers[0].facts)
    Manager(drop("blocks", [0, 2, 3])).attach(model)
    assert list(model.blocks) == left


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("scaled", "without them it computes something else than if they handed on what they are given"),
        ("mean", "without them it computes something else"),
        ("last", "without them it computes something else"),
        ("by number", "it fails without them .IndexError"),
    ],
)
def test_what_depends_on_the_number_of_layers_is_found_out(kind: str, why: str) -> None:
    model = Net(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(PlanError, match=f"its family is not declared, and {why}"):
        Manager(drop("blocks", [0, 2, 3])).attach(model)
    assert len(model.blocks) == 4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_cannot_be_run_is_refused() -> None:
    class Needs(Net):
        def forward(self, x: Tensor, other: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) + other

    with pytest.raises(PlanError, match=r"it could not be tried \(RuntimeError: The size of tensor"):
        Manager(drop("blocks", [0, 2, 3])).attach(Needs())


def test_a_configuration_that_raises_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library raises may say nothing; that is one clear error all the same."""
    import transformers

    model = build("falcon")
    whole = transformers.FalconForCausalLM.__init__

    def refusing(self: Any, config: Any) -> None:
        if config.num_hidden_layers < 4:
            raise NotImplementedError
        whole(self, config)

    monkeypatch.setattr(transformers.FalconForCausalLM, "__init__", refusing)
    with pytest.raises(PlanError, match="no model can be made of the new configuration: NotImplementedError"):
        Plan.of(drop("transformer.h", [0, 2, 3]), model)
