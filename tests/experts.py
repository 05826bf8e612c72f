"""Small experts and models with experts, of transformers, in every form in which they are stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

COUNT, WIDTH, INNER = 3, 8, 5
"""Experts, features, and neurons of an expert."""

Made = tuple[nn.Module, Callable[[Tensor], Tensor]]
_ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def _evenly(module: nn.Module) -> Made:
    """Return experts, and what they make of tokens of which each goes to all of them."""
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    module.eval()

    @torch.no_grad()
    def run(x: Tensor) -> Tensor:
        shape = (len(x), COUNT)
        everyone = torch.arange(COUNT).expand(shape)
        found: Tensor = module(x, everyone, torch.ones(shape))
        return found

    return module, run


def _mixtral() -> Made:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    return _evenly(MixtralExperts(MixtralConfig(hidden_size=WIDTH, intermediate_size=INNER, num_local_experts=COUNT)))


def _gpt_oss() -> Made:
    from transformers import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

    return _evenly(GptOssExperts(GptOssConfig(hidden_size=WIDTH, intermediate_size=INNER, num_local_experts=COUNT)))


def _llama4() -> Made:
    from transformers import Llama4TextConfig
    from transformers.models.llama4.modeling_llama4 import Llama4TextExperts

    config = Llama4TextConfig(hidden_size=WIDTH, intermediate_size=INNER, num_local_experts=COUNT)
    module, _ = _evenly(Llama4TextExperts(config))
    return module, torch.no_grad()(lambda x: module(x.repeat(COUNT, 1)))


def _dbrx() -> Made:
    from transformers.models.dbrx.configuration_dbrx import DbrxFFNConfig
    from transformers.models.dbrx.modeling_dbrx import DbrxExperts

    config: Any = DbrxFFNConfig(hidden_size=WIDTH, ffn_hidden_size=INNER, moe_num_experts=COUNT)
    module, run = _evenly(DbrxExperts(config))
    return module, run


def _without_gate() -> Made:
    from transformers import NemotronHConfig
    from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

    config = NemotronHConfig(hidden_size=WIDTH, moe_intermediate_size=INNER, n_routed_experts=COUNT)
    return _evenly(NemotronHExperts(config))


MAKERS: dict[str, Callable[[], Made]] = {
    "[experts, out, in]": _mixtral,
    "[experts, in, out], gate and up alternate": _gpt_oss,
    "[experts, in, out]": _llama4,
    "one after the other": _dbrx,
    "without a gate": _without_gate,
}

_SIZES: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 4,
    "num_key_value_heads": 2, "vocab_size": 12, "max_position_embeddings": 8, **_ENDS,
}  # fmt: skip


def mixtral() -> Any:
    """Return a model of which every token goes to two of four experts."""
    from transformers import MixtralConfig, MixtralModel

    return MixtralModel(MixtralConfig(**_SIZES, num_local_experts=4, num_experts_per_tok=2))


def gpt_oss() -> Any:
    """Return a model with biases of experts, and gate and up alternating."""
    from transformers import GptOssConfig, GptOssModel

    config = GptOssConfig(**_SIZES, num_local_experts=4, num_experts_per_tok=2, layer_types=["full_attention"] * 2)
    return GptOssModel(config)


def qwen2() -> Any:
    """Return a model with an expert that all tokens share, and a gate for it."""
    from transformers import Qwen2MoeConfig, Qwen2MoeModel

    more = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    sizes = {key: value for key, value in _SIZES.items() if key != "head_dim"}
    return Qwen2MoeModel(Qwen2MoeConfig(**sizes, **more, shared_expert_intermediate_size=24))


MODELS: dict[str, Callable[[], Any]] = {"mixtral": mixtral, "gpt-oss": gpt_oss, "qwen2-moe": qwen2}
