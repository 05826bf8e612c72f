"""Small models of every known architecture, with inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.demo.resnet import ResNet

Inputs = dict[str, Tensor]


def _text(length: int = 6, **more: Any) -> Callable[[], Inputs]:
    return lambda: {"input_ids": torch.randint(2, 40, (2, length), generator=torch.Generator().manual_seed(0)), **more}


def _seq2seq() -> Inputs:
    tokens = _text()()["input_ids"]
    return {"input_ids": tokens, "decoder_input_ids": tokens.flip(1)}


def _image(size: int) -> Callable[[], Inputs]:
    return lambda: {"pixel_values": torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))}


@dataclass(frozen=True)
class Model:
    """A model of transformers by its class and configuration, or made by hand."""

    kind: str
    config: dict[str, Any]
    inputs: Callable[[], Inputs]
    make: Callable[[], nn.Module] | None = None


_BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 40}
_ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
_T5 = {"d_model": 32, "d_kv": 16, "num_layers": 2, "num_heads": 2, "d_ff": 64, "vocab_size": 40}
_SIDES = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in
          (("layers", 2), ("attention_heads", 2), ("ffn_dim", 64))}  # fmt: skip


class TorchEncoder(nn.Module):
    """Layers of torch.nn."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return hidden states."""
        return self.encoder(x)  # type: ignore[no-any-return]


MODELS: dict[str, Model] = {
    "bert": Model("BertForSequenceClassification", _BERT, _text()),
    "roberta": Model("RobertaForSequenceClassification", {**_BERT, **_ENDS}, _text()),
    "distilbert": Model(
        "DistilBertForSequenceClassification",
        {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "vocab_size": 40},
        _text(),
    ),
    "vit": Model("ViTForImageClassification", {**_BERT, "image_size": 8, "patch_size": 4}, _image(8)),
    "gpt2": Model("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 40, **_ENDS}, _text()),
    "llama": Model(
        "LlamaForCausalLM", {**_BERT, "num_attention_heads": 4, "num_key_value_heads": 2, **_ENDS}, _text()
    ),
    "t5": Model("T5ForConditionalGeneration", _T5, _seq2seq),
    "t5-gated": Model("T5ForConditionalGeneration", {**_T5, "feed_forward_proj": "gated-gelu"}, _seq2seq),
    "bart": Model("BartForConditionalGeneration", {"d_model": 32, **_SIDES, "vocab_size": 40, **_ENDS}, _seq2seq),
    "mobilebert": Model(
        "MobileBertForSequenceClassification",
        {**_BERT, "intra_bottleneck_size": 16, "true_hidden_size": 16, "embedding_size": 16},
        _text(),
    ),
    "albert": Model("AlbertForSequenceClassification", {**_BERT, "embedding_size": 16}, _text()),
    "modernbert": Model(
        "ModernBertForSequenceClassification", {**_BERT, **_ENDS, "cls_token_id": 1, "sep_token_id": 0}, _text()
    ),
    "torch": Model("", {}, lambda: {"x": torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))}, TorchEncoder),
    "resnet": Model(
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2], "layer_type": "basic"},
        _image(32),
    ),
    "resnet-bottleneck": Model(
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "bottleneck"},
        _image(32),
    ),
    "resnet-by-hand": Model("", {}, lambda: {"pixel_values": _image(8)()["pixel_values"][:, :1]}, ResNet),
}  # fmt: skip


def build(name: str) -> Any:
    """Return a small model with random weights, always the same."""
    torch.manual_seed(0)
    model = MODELS[name]
    if model.make is not None:
        return model.make()
    import transformers

    kind = getattr(transformers, model.kind)
    return kind(kind.config_class(**model.config))


def save_sparse(name: str, folder: Path, sparsity: float = 0.5) -> nn.Module:
    """Save a model with zeros at random in its matrices; return it."""
    torch.manual_seed(0)
    model = build(name)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter[torch.rand_like(parameter) < sparsity] = 0
    model.save_pretrained(folder)  # type: ignore[operator]
    return model.eval()
