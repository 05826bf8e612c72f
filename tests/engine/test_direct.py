"""Packed files straight into the engine's layout: what stays out of memory, and that the model is the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from sparsify import engine
from sparsify.engine import trial, whole
from tests.engine.test_whole import prune


@pytest.mark.parametrize("kind", ["bert", "gpt2", "resnet"])
def test_a_packed_file_is_loaded_without_dense_weights(
    kind: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    storage = pytest.importorskip("sparsify.storage")
    torch.manual_seed(0)
    if kind == "bert":
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=99, **sizes))
        sample = {"input_ids": torch.arange(40).view(2, 20)}
    elif kind == "gpt2":
        config = transformers.GPT2Config(n_embd=64, n_layer=1, n_head=2, vocab_size=99, bos_token_id=1, eos_token_id=2)
        model = transformers.GPT2LMHeadModel(config)
        model.generation_config.max_new_tokens = 7
        sample = {"input_ids": torch.arange(40).view(2, 20)}
    else:
        sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
        model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes))
        sample = {"pixel_values": torch.randn(2, 3, 32, 32)}
    model.eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and not any(part in name for part in ("embeddings", "wte", "wpe", "classifier")):
            prune(parameter.data)
    dense = copy.deepcopy(model)
    with monkeypatch.context() as patched:
        patched.setattr(
            whole, "tried", lambda layer, packed, like: trial.Trial({"dense": 2.0, **dict.fromkeys(packed, 1.0)})
        )
        chosen = engine.accelerate(model, sample=sample)
    assert chosen.sparse
    model_folder, file = tmp_path / "model", tmp_path / "model.packed"
    dense.save_pretrained(model_folder)
    engine.save_choices(model_folder, chosen)
    storage.pack(model_folder, file)

    stored = {layer: storage.PackedFile(file).info(f"{layer}.weight") for layer in chosen.sparse}
    by_rows = {layer for layer, info in stored.items() if info.layout != "raw"}
    assert len(by_rows) >= 4
    packed_dense: list[Any] = []
    original_pack = whole.pack
    monkeypatch.setattr(whole, "pack", lambda *given: (packed_dense.append(given), original_pack(*given))[1])
    read: list[str] = []
    original = storage.PackedFile.tensor
    monkeypatch.setattr(storage.PackedFile, "tensor", lambda self, name: (read.append(name), original(self, name))[1])
    loaded = engine.load(file)
    assert not {f"{layer}.weight" for layer in by_rows} & set(read)
    assert len(packed_dense) == len(stored) - len(by_rows), "what is stored dense, being small, is packed from that"
    with torch.inference_mode():
        assert torch.equal(loaded(**sample).logits, model(**sample).logits)
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in dense.state_dict().items())
    assert len(engine.restore(loaded)) == len(chosen.sparse)
    with torch.inference_mode():
        assert torch.equal(loaded(**sample).logits, dense(**sample).logits)
    if kind == "gpt2":
        assert loaded.generation_config.max_new_tokens == 7
