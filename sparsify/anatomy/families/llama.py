"""Llama and those built like it: grouped queries, gated feed-forward."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="llama",
        layers=(
            "LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer", "GemmaDecoderLayer",
            "Gemma2DecoderLayer",
        ),
        # with no group left in the first layer the cache would not know its length
        attentions=(
            AttentionPaths(
                query="self_attn.q_proj",
                key="self_attn.k_proj",
                value="self_attn.v_proj",
                output="self_attn.o_proj",
                head_size="self_attn.head_dim",
                least=1,
            ),
        ),
        feed_forwards=(FeedForwardPaths(up="mlp.up_proj", gate="mlp.gate_proj", down="mlp.down_proj"),),
    )
)  # fmt: skip
