"""The kinds of layers of the matrix: small models, each with ties and zeros, and a training step for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsify import Manager
from sparsify.patterns import Pattern
from tests import experts


@dataclass(frozen=True)
class Kind:
    """How to build a model, its inputs at a step, and what to target."""

    make: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], dict[str, Tensor] | Tensor]
    targets: tuple[str, ...] | None
    heads: int = 0
    """Heads (or groups) of an attention block, if it has one, and …"""

    least: int = 0
    """… how many must stay."""

    experts: int = 0
    kept: int = 0
    """Experts of a layer, and how many of them must stay."""

    def build(self) -> nn.Module:
        """Return the model: always the same, with some equal weights and some zeros."""
        torch.manual_seed(0)
        model = self.make().train()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1 and parameter.shape[0] > 3:
                    parameter[1] = parameter[0]
                    parameter[-1] = 0
        return model

    def step(self, model: nn.Module, optimizer: Any, manager: Manager, step: int) -> None:
        """Make one training step with the hooks."""
        manager.on_step_begin()
        optimizer.zero_grad()
        inputs = self.inputs(torch.Generator().manual_seed(1000 + step))
        output: Any = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        found = output if isinstance(output, Tensor) else output[0]
        (found - 0.1 * step).square().mean().backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()

    def most(self, pattern: Pattern) -> float:
        """Return the highest sparsity that the layers allow."""
        if pattern.type == "expert" and self.experts:
            return (self.experts - self.kept) / self.experts
        return (self.heads - self.least) / self.heads if pattern.type == "head" and self.heads else 1.0


def _tokens(length: int = 4) -> Callable[[torch.Generator], dict[str, Tensor]]:
    return lambda generator: {"input_ids": torch.randint(1, 12, (2, length), generator=generator)}


def _features(*shape: int) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.randn(*shape, generator=generator)


def _linear() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 4))


def _conv(kind: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return nn.Sequential(
            kind(8, 16, 3, padding=1),
            nn.ReLU(),
            kind(16, 16, 2, groups=2),
            nn.ReLU(),
            kind(16, 16, 2, groups=16),
            kind(16, 8, 1, bias=False),
        )

    return make


def _transposed() -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    return nn.Sequential(Conv1D(32, 16), nn.ReLU(), Conv1D(8, 32))


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, vocab_size=12,
            max_position_embeddings=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )  # fmt: skip


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2Model

    return GPT2Model(
        GPT2Config(
            n_embd=16, n_layer=2, n_head=4, n_inner=24, vocab_size=12, n_positions=8, bos_token_id=0, eos_token_id=0,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    )  # fmt: skip


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaModel

    return LlamaModel(
        LlamaConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4, intermediate_size=24,
            vocab_size=12, max_position_embeddings=8, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


class Recurrent(nn.Module):
    """An LSTM and a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(8, 8)
        self.second = nn.GRU(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of all steps."""
        found: Tensor = self.second(self.first(x)[0])[0]
        return found


class Pairs(nn.Module):
    """A bilinear layer, of a batch with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Bilinear(6, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        found: Tensor = self.both(x[:, :6], x)
        return found


def _back() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(8, 16, 2), nn.ReLU(), nn.ConvTranspose2d(16, 8, 2, groups=2), nn.ConvTranspose2d(8, 8, 1)
    )


def _relative() -> nn.Module:
    from transformers import XLNetConfig, XLNetModel

    config = XLNetConfig(d_model=16, n_layer=1, n_head=4, d_inner=24, vocab_size=12, dropout=0.0)
    return XLNetModel(config)


KINDS: dict[str, Kind] = {
    "Linear": Kind(_linear, _features(4, 16), ("0", "2")),
    "Conv1D": Kind(_transposed, _features(4, 16), ("*",)),
    "Conv1d": Kind(_conv(nn.Conv1d), _features(2, 8, 6), ("0", "2", "5")),
    "Conv2d": Kind(_conv(nn.Conv2d), _features(2, 8, 4, 4), ("0", "2", "5")),
    "Conv3d": Kind(_conv(nn.Conv3d), _features(1, 8, 3, 3, 3), ("0", "5")),
    "depthwise": Kind(_conv(nn.Conv2d), _features(2, 8, 4, 4), ("4",)),
    "Embedding": Kind(
        lambda: nn.Sequential(nn.Embedding(12, 16), nn.Linear(16, 4)),
        lambda generator: torch.randint(0, 12, (4, 3), generator=generator),
        ("0",),
    ),
    "BERT": Kind(_bert, _tokens(), None, heads=4),
    "GPT-2": Kind(_gpt2, _tokens(), None, heads=4, least=1),
    "Llama": Kind(_llama, _tokens(), None, heads=4, least=1),
    "Mixtral": Kind(experts.mixtral, _tokens(), None, heads=2, least=1, experts=4, kept=2),
    "GPT-OSS": Kind(experts.gpt_oss, _tokens(), ("experts", "attention"), heads=2, least=1, experts=4, kept=2),
    "recurrent": Kind(Recurrent, _features(3, 2, 8), ("*",)),
    "transposed": Kind(_back, _features(2, 8, 3, 3), ("0", "2", "3")),
    "Bilinear": Kind(Pairs, _features(4, 8), ("both",)),
    "XLNet": Kind(_relative, _tokens(), ("layer.*",)),
}
