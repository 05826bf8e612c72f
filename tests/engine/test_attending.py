"""Models of transformers that use the engine's attention, with masks and without, and give it back."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify import KernelError, engine
from sparsify.engine import attending, whole
from sparsify.engine.chosen import Choice, Chosen
from tests.engine.attention import IDS, SAMPLE, bert, counted, inputs, output, padded, pruned


@pytest.fixture(autouse=True)
def told() -> None:
    if not attending._registered():
        pytest.skip("transformers is too old to be told of the engine's attention, or is not there")


@pytest.fixture
def sparse(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Trials that are given instead of measured: linear layers are sparse, attention is so many times as fast."""
    given = {"attention": 2.0}
    monkeypatch.setattr(whole, "_best", lambda layer, *_: Choice(layer.name, layer.shape, "unstructured"))
    monkeypatch.setattr(attending, "_tried", lambda cases: given["attention"])
    return given


def test_a_model_takes_it_where_it_is_faster(
    sparse: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    model = bert()
    before = output(model, **SAMPLE)
    chosen = engine.accelerate(model, sample=SAMPLE)
    assert (chosen.attention, chosen.attention_faster) == (True, 2.0)
    assert "attention is the engine's (ours is 2.00× as fast)" in chosen.table()
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
    for given in ({"input_ids": IDS}, padded()):
        wanted = output(model, **given)
        traced: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.allclose(output(traced, **given), wanted, atol=1e-6)


@pytest.mark.parametrize("left", [False, True])
def test_padding_is_computed(sparse: dict[str, float], monkeypatch: pytest.MonkeyPatch, left: bool) -> None:
    model, given = bert(), padded(left)
    wanted = output(model, **given)
    engine.accelerate(model, sample=SAMPLE)
    calls = counted(monkeypatch)
    assert torch.allclose(output(model, **given), wanted, atol=1e-5)
    assert calls == [40, 40], "one for each layer"
    alone = output(model, input_ids=IDS[1:, 20:] if left else IDS[1:, :20], **_places(given, left))
    assert torch.allclose(
        output(model, **given)[1:, 20:] if left else output(model, **given)[1:, :20], alone, atol=1e-5
    )


def _places(given: dict[str, Tensor], left: bool) -> dict[str, Tensor]:
    """Return the places of the second text's tokens, as they are beside padding."""
    return {"position_ids": torch.arange(20, 40)[None]} if left else {}


def test_what_the_engine_does_not_compute_is_left_to_torch(
    sparse: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    model = bert()
    added = torch.zeros(2, 1, 40, 40)
    added[1, ..., 20:] = -1e9
    few, float_mask = {"input_ids": IDS[:, :9]}, {"input_ids": IDS, "attention_mask": added}
    wanted = [output(model, **each) for each in (few, float_mask)]
    engine.accelerate(model, sample=SAMPLE)
    calls = counted(monkeypatch)
    for given, each in zip((few, float_mask), wanted, strict=True):
        assert torch.allclose(output(model, **given), each, atol=1e-5)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        model(**padded())
    config = transformers.T5Config(d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=4, vocab_size=99)
    biased = transformers.T5EncoderModel(config).eval()
    wanted[0] = output(biased, **padded())
    if attending.take(biased):  # biases of positions
        assert torch.allclose(output(biased, **padded()), wanted[0], atol=1e-5)
    assert not calls


DECODERS = ["Llama", "GPT2", "Mistral", "OPT"]


def decoder(name: str) -> Any:
    """Return a small decoder: of grouped heads, without them, with a window, and with places counted from a mask."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    given: dict[str, dict[str, Any]] = {
        "Llama": {**sizes, "intermediate_size": 96, "num_key_value_heads": 2},
        "GPT2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 99},
        "Mistral": {**sizes, "intermediate_size": 96, "num_key_value_heads": 2, "sliding_window": 12},
        "OPT": {**sizes, "ffn_dim": 96, "word_embed_proj_dim": 64, "max_position_embeddings": 128},
    }
    config = getattr(transformers, f"{name}Config")(**given[name], **ends)
    return pruned(getattr(transformers, f"{name}{'LMHeadModel' if name == 'GPT2' else 'ForCausalLM'}")(config))


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_are_computed_with_padding_and_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder(name)
    given = (SAMPLE, {"input_ids": IDS}, padded(), padded(left=True))
    wanted = [output(model, **each) for each in given]
    assert attending.take(model)
    calls = counted(monkeypatch)
    for those, each in zip(given, wanted, strict=True):
        found, seen = output(model, **those), those.get("attention_mask", torch.ones_like(IDS)).bool()
        assert torch.allclose(found[seen], each[seen], atol=1e-4)
    assert calls == [40] * 8
    attending.give_back(model)
    assert torch.equal(output(model, **given[2]), wanted[2])


@pytest.mark.parametrize("name", DECODERS)
def test_generated_tokens_are_those_of_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder(name)
    for given in ({"input_ids": IDS}, padded(left=True)):
        asked = {**given, "max_new_tokens": 12, "do_sample": False, "min_new_tokens": 12}
        wanted = model.generate(**asked)
        attending.take(model)
        calls = counted(monkeypatch)
        assert torch.equal(model.generate(**asked), wanted)
        assert calls == [40, 40], "the prompt; a token at a time is torch's"
        attending.give_back(model)


@pytest.mark.filterwarnings("ignore")  # the cache has another name in later versions
def test_caches_that_hold_keys_already(monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    model = decoder("Llama")
    wanted = output(model, input_ids=IDS)[:, 20:]
    attending.take(model)
    calls = counted(monkeypatch)
    makers: list[Any] = [
        lambda: transformers.DynamicCache(config=model.config),
        lambda: transformers.StaticCache(config=model.config, max_cache_len=64),
    ]
    for make in makers:
        cache = make()
        output(model, input_ids=IDS[:, :20], past_key_values=cache)
        assert torch.allclose(output(model, input_ids=IDS[:, 20:], past_key_values=cache), wanted, atol=1e-4)
    assert calls == [20] * 8, "queries after the first are fewer than keys"


def test_heads_that_a_module_does_not_speak_of_are_left_to_torch() -> None:
    q, k, v = inputs(2, 4, 20, 20, 8)
    grouped: Any = SimpleNamespace(is_causal=True, num_key_value_groups=2)
    given = q, k[:, :2], v[:, :2], None
    wanted = functional.scaled_dot_product_attention(*given[:3], is_causal=True, enable_gqa=True)
    assert torch.allclose(attending._forward(grouped, *given)[0], wanted.transpose(1, 2), atol=1e-5)
    unsaid: Any = SimpleNamespace(is_causal=True)
    with pytest.raises(RuntimeError, match="size"):
        attending._forward(unsaid, *given)


def test_encoders_with_decoders_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    layers = {
        f"{part}_{what}": number
        for part in ("encoder", "decoder")
        for what, number in (("layers", 1), ("attention_heads", 4), ("ffn_dim", 64))
    }
    config = transformers.BartConfig(d_model=64, vocab_size=99, pad_token_id=1, **layers)
    model = pruned(transformers.BartModel(config))
    given = {**padded(), "decoder_input_ids": IDS[:, :17]}
    wanted = output(model, **given)
    attending.take(model)
    calls = counted(monkeypatch)
    assert torch.allclose(output(model, **given), wanted, atol=1e-5)
    assert calls == [40, 17, 17], "the encoder, the decoder, and the one on the other"


def test_where_it_is_slower_or_of_no_use_it_is_not_taken(sparse: dict[str, float]) -> None:
    sparse["attention"] = 1.01
    model = bert()
    chosen = engine.accelerate(model, sample=SAMPLE)
    assert (chosen.attention, chosen.attention_faster) == (False, 1.01)
    assert "attention stays torch's (ours is 1.01× as fast)" in chosen.table()
    assert model.config._attn_implementation == "sdpa"
    sparse["attention"] = 3.0
    short = bert()
    assert attending.choose(short, {"input_ids": IDS[:, :9]}) is None
    assert short.config._attn_implementation == "sdpa"
    eager = bert()
    eager.set_attn_implementation("eager")
    assert attending.choose(eager, SAMPLE) is None
    with pytest.raises(KernelError, match="choices have the engine's attention"):
        engine.accelerate(nn.Linear(4, 4), choices=Chosen((), "", attention=True))


def test_an_error_gives_it_back(sparse: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attending, "attend", lambda q, *_, **__: torch.zeros_like(q).transpose(1, 2))
    model = bert()
    with pytest.raises(KernelError, match="outputs are off by"):
        engine.accelerate(model, sample=SAMPLE)
    assert model.config._attn_implementation == "sdpa"
    monkeypatch.setattr(attending, "attend", lambda *_, **__: 1 / 0)
    with pytest.raises(KernelError, match="the model cannot be run on the sample: "):
        engine.accelerate(model, sample=SAMPLE)
    assert model.config._attn_implementation == "sdpa"


def test_a_trial_says_how_many_times_as_fast() -> None:
    pytest.importorskip("transformers")
    shape, keys = torch.Size((1, 2, 32, 16)), torch.Size((1, 1, 32, 16))
    mask = torch.rand(1, 1, 32, 32) < 0.5
    cases = [attending.Case(shape, shape), attending.Case(shape, keys, True), attending.Case(shape, keys, False, mask)]
    assert 0.01 < attending._tried(cases) < 100


def test_a_trial_is_on_the_masks_of_the_sample_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[list[attending.Case]] = []
    faster = {True: 3.0, False: 2.0}
    monkeypatch.setattr(attending, "_tried", lambda cases: tried.append(cases) or faster[cases[0].mask is None])
    bare = attending.Case(torch.Size((2, 2, 40, 32)), torch.Size((2, 2, 40, 32)))
    assert attending.choose(bert(), padded()) == 2.0
    (masked,), (plain,) = tried
    assert plain == bare
    assert masked.mask is not None
    assert (masked.of_queries, masked.causal, masked.products) == (bare.of_queries, False, 2 * 2 * 40 * 40)
    assert masked.mask.expand(2, 1, 40, 40).sum() == 40 * 60
    faster[True] = 1.5
    assert attending.choose(bert(), padded()) == 1.5, "a batch without padding must not be slower"
    tried.clear()
    assert attending.choose(bert(), SAMPLE) == 1.5
    assert tried == [[bare]]
    tried.clear()
    attending.choose(decoder("Llama"), SAMPLE)
    order = attending.Case(torch.Size((2, 4, 40, 16)), torch.Size((2, 2, 40, 16)), True)
    assert tried == [[order]]
    tried.clear()
    attending.choose(decoder("Llama"), padded())
    (masked,), (plain,) = tried
    assert plain == order
    assert (masked.mask is not None, masked.causal) == (True, False), "a mask says it all"


def test_a_second_time_leaves_what_is_there(sparse: dict[str, float]) -> None:
    model = bert()
    engine.accelerate(model, sample=SAMPLE)
    assert not engine.accelerate(model, sample=SAMPLE).sparse, "its layers are sparse already"
    assert model.config._attn_implementation == attending.NAME
    engine.restore(model.encoder.layer[0])  # its configuration is that of the whole model
    assert engine.accelerate(model, sample=SAMPLE).attention
    assert model.config._attn_implementation == attending.NAME
