"""The engine's attention: its numbers, what it refuses, and models of transformers that use it and give it back."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify import KernelError, engine
from sparsify.engine import attending, library, whole
from sparsify.engine.attention import attend
from sparsify.engine.chosen import Choice, Chosen
from sparsify.engine.library import INSTRUCTIONS

BEST = 0 if library.missing() else INSTRUCTIONS[library.instructions()]
SETS = [number for number in INSTRUCTIONS.values() if 0 < number <= BEST]
SHAPES = [(1, 1, 1, 1, 4), (2, 3, 7, 5, 20), (1, 2, 64, 128, 64), (2, 2, 70, 33, 32), (1, 1, 130, 300, 128)]
"""(batch, heads, queries, keys, width)."""


def inputs(batch: int, heads: int, queries: int, keys: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v that lie as those of transformers do."""
    torch.manual_seed(queries)
    q, k, v = (torch.randn(batch, tokens, heads, width).transpose(1, 2) for tokens in (queries, keys, keys))
    return q, k, v


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("instructions", SETS)
def test_it_is_as_exact_as_torch(shape: tuple[int, ...], instructions: int) -> None:
    q, k, v = inputs(*shape)
    for scale in (0.125, 2.0):
        wanted = functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), scale=scale)
        by_torch = functional.scaled_dot_product_attention(q, k, v, scale=scale)
        found = attend(q, k, v, scale, instructions)
        assert found.is_contiguous()
        error = float((found.transpose(1, 2) - wanted).abs().max())
        assert error <= 2 * float((by_torch - wanted).abs().max()) + 1e-7


def test_inputs_may_lie_in_any_way() -> None:
    q, k, v = inputs(2, 3, 20, 9, 8)
    wanted = attend(q, k, v, 0.5)
    whole_rows = torch.cat([torch.randn(2, 3, 20, 5), q, torch.randn(2, 3, 20, 3)], -1)
    turned = v.transpose(2, 3).contiguous().transpose(2, 3)
    assert turned.stride(-1) != 1
    assert torch.equal(attend(whole_rows[..., 5:13], k.contiguous(), turned, 0.5), wanted)


def test_threads_change_no_bit() -> None:
    q, k, v = inputs(2, 3, 150, 90, 32)
    before, wanted = torch.get_num_threads(), attend(q, k, v, 0.5)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(attend(q, k, v, 0.5), wanted)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("instructions", SETS)
def test_what_is_not_finite_goes_where_it_goes_in_torch(instructions: int) -> None:
    nan, infinity = float("nan"), float("inf")
    for place, value in ((0, nan), (0, infinity), (1, nan), (1, infinity), (2, nan), (2, infinity), (2, -infinity)):
        given = inputs(1, 2, 70, 40, 8)
        given[place][0, 1, 3, 2] = value
        found = attend(*given, 0.5, instructions).transpose(1, 2)
        wanted = functional.scaled_dot_product_attention(*(each.double() for each in given), scale=0.5)
        assert torch.equal(found.isnan(), wanted.isnan())
        assert torch.allclose(found.double(), wanted, atol=1e-5, equal_nan=True)
    q, k, v = inputs(1, 2, 70, 40, 8)
    odd = torch.tensor([0x7F812345], dtype=torch.int32).view(torch.float32)  # a NaN with more bits than usual
    q[0, 0, 5, 0] = odd[0]
    assert attend(q, k, v, 0.5, instructions)[0, 5, 0].isnan().all()
    q, k, v = inputs(1, 1, 9, 6, 8)
    largest = functional.scaled_dot_product_attention(1e4 * q.double(), 1e4 * k.double(), v.double(), scale=1.0)
    assert torch.allclose(attend(1e4 * q, 1e4 * k, v, 1.0, instructions).transpose(1, 2).double(), largest, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_the_operator_is_checked_exported_and_traced() -> None:
    q, k, v = inputs(2, 3, 20, 9, 8)
    torch.library.opcheck(torch.ops.sparsify.attention.default, (q, k, v, 0.5))

    class Product(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return torch.relu(attend(q * 2, k, v, 0.5))

    wanted = Product()(q, k, v)
    assert torch.equal(torch.export.export(Product(), (q, k, v)).module()(q, k, v), wanted)
    with torch.inference_mode():
        assert torch.equal(torch.compile(Product(), fullgraph=True, backend="aot_eager")(q, k, v), wanted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda q, k, v: (q.double(), k, v, 0.5), "attention takes q, k and v of float32"),
        (lambda q, k, v: (q, k[:, :1], v, 0.5), "the same heads in all"),
        (lambda q, k, v: (q, k, v[:, :, :3], 0.5), "the same heads in all"),
        (lambda q, k, v: (q[..., :6], k[..., :6], v[..., :6], 0.5), "a multiple of 4 up to 256"),
        (lambda q, k, v: (q[0], k[0], v[0], 0.5), r"got \(3, 20, 8\)"),
        (lambda q, k, v: (q, k, v, 0.0), "is none that the engine has"),
        (lambda q, k, v: (q, k, v, float("nan")), "is none that the engine has"),
        (lambda q, k, v: (q, k, v, 0.5, 99), "lacks the instructions"),
    ],
)
def test_what_does_not_fit_is_refused(change: Any, words: str) -> None:
    with pytest.raises(KernelError, match=words):
        attend(*change(*inputs(2, 3, 20, 9, 8)))


def test_gradients_are_refused() -> None:
    q, k, v = inputs(1, 1, 20, 9, 8)
    with pytest.raises(KernelError, match="compute no gradients"):
        attend(q.requires_grad_(), k, v, 0.5).sum().backward()


IDS = torch.arange(80).view(2, 40)
SAMPLE = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


def bert() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, vocab_size=99
    )
    model = transformers.BertModel(config).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(torch.rand_like(module.weight) < 0.1)
    return model


@pytest.fixture
def sparse(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Trials that are given instead of measured: linear layers are sparse, attention is so many times as fast."""
    given = {"attention": 2.0}
    monkeypatch.setattr(whole, "_best", lambda layer, *_: Choice(layer.name, layer.shape, "unstructured"))
    monkeypatch.setattr(attending, "_tried", lambda shapes: given["attention"])
    return given


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets an entry for each call of the engine's attention."""
    calls: list[int] = []

    def counting(*arguments: Any) -> Tensor:
        calls.append(1)
        return attend(*arguments)

    monkeypatch.setattr(attending, "attend", counting)
    return calls


@torch.inference_mode()
def output(model: Any, **inputs: Tensor) -> Tensor:
    found: Tensor = model(**inputs).last_hidden_state
    return found


def test_a_model_takes_it_where_it_is_faster(
    sparse: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    model = bert()
    before = output(model, **SAMPLE)
    chosen = engine.accelerate(model, sample=SAMPLE)
    assert (chosen.attention, chosen.attention_faster) == (True, 2.0)
    assert "attention without a mask is the engine's (ours is 2.00× as fast)" in chosen.table()
    calls = counted(monkeypatch)
    assert torch.allclose(output(model, **SAMPLE), before, atol=1e-5)
    assert len(calls) == 2, "one for each layer"
    other = copy.deepcopy(model)
    model.save_pretrained(tmp_path)
    assert "sparsify" not in (tmp_path / "config.json").read_text()
    engine.restore(model)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(output(model, **SAMPLE), before)
    assert len(calls) == 2
    assert torch.allclose(output(other, **SAMPLE), before, atol=1e-5)
    assert len(calls) == 4, "a copy stands for itself"
    again = bert()
    data = json.loads(json.dumps(chosen.to_dict()))
    assert Chosen.from_dict(data) == chosen
    assert engine.accelerate(again, choices=data) == Chosen(chosen.layers, chosen.where, True, 2.0)
    assert torch.equal(output(again, **SAMPLE), output(other, **SAMPLE))


@pytest.mark.filterwarnings("ignore")
def test_a_model_with_it_is_traced_without_a_break(sparse: dict[str, float]) -> None:
    model = bert()
    engine.accelerate(model, sample=SAMPLE)
    given = {"input_ids": IDS}
    with torch.inference_mode():
        wanted = model(**given).last_hidden_state
        traced: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.allclose(traced(**given).last_hidden_state, wanted, atol=1e-6)


def test_masks_and_few_queries_are_left_to_torch(sparse: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    model = bert()
    mask = torch.ones_like(IDS)
    mask[1, 20:] = 0
    padded = {"input_ids": IDS, "attention_mask": mask}
    short = {"input_ids": IDS[:, :9]}
    wanted = [output(model, **each) for each in (padded, short)]
    engine.accelerate(model, sample=SAMPLE)
    calls = counted(monkeypatch)
    for given, each in zip((padded, short), wanted, strict=True):
        assert torch.allclose(output(model, **given), each, atol=1e-5)
    assert not calls


def test_where_it_is_slower_or_of_no_use_it_is_not_taken(sparse: dict[str, float]) -> None:
    sparse["attention"] = 1.01
    model = bert()
    chosen = engine.accelerate(model, sample=SAMPLE)
    assert (chosen.attention, chosen.attention_faster) == (False, 1.01)
    assert "attention without a mask stays torch's (ours is 1.01× as fast)" in chosen.table()
    assert model.config._attn_implementation == "sdpa"
    sparse["attention"] = 3.0
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=64, n_layer=1, n_head=2, vocab_size=99)
    causal = transformers.GPT2Model(config).eval()
    assert attending.choose(causal, {"input_ids": IDS}) is None
    assert causal.config._attn_implementation == "sdpa"
    eager = bert()
    eager.set_attn_implementation("eager")
    assert attending.choose(eager, SAMPLE) is None
    with pytest.raises(KernelError, match="choices have the engine's attention"):
        engine.accelerate(nn.Linear(4, 4), choices=Chosen((), "", attention=True))


def test_an_error_gives_it_back(sparse: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attending, "attend", lambda q, k, v, scale: torch.zeros_like(q).transpose(1, 2))
    model = bert()
    with pytest.raises(KernelError, match="outputs are off by"):
        engine.accelerate(model, sample=SAMPLE)
    assert model.config._attn_implementation == "sdpa"
    monkeypatch.setattr(attending, "attend", lambda *_: 1 / 0)
    with pytest.raises(KernelError, match="the model cannot be run on the sample: "):
        engine.accelerate(model, sample=SAMPLE)
    assert model.config._attn_implementation == "sdpa"


def test_a_trial_says_how_many_times_as_fast() -> None:
    shape = torch.Size((1, 2, 32, 16))
    assert 0.01 < attending._tried([(shape, shape)]) < 100


def test_a_second_time_leaves_what_is_there(sparse: dict[str, float]) -> None:
    model = bert()
    engine.accelerate(model, sample=SAMPLE)
    assert not engine.accelerate(model, sample=SAMPLE).sparse, "its layers are sparse already"
    assert model.config._attn_implementation == attending.NAME
    engine.restore(model.encoder.layer[0])  # its configuration is that of the whole model
    assert engine.accelerate(model, sample=SAMPLE).attention
    assert model.config._attn_implementation == attending.NAME
