"""Llama and those built like it: grouped queries, gated feed-forward, or experts in its place."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="llama",
        layers=(
            "LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer", "GemmaDecoderLayer",
            "Gemma2DecoderLayer", "MixtralDecoderLayer", "Qwen2MoeDecoderLayer", "Qwen3MoeDecoderLayer",
            "GptOssDecoderLayer", "GraniteMoeDecoderLayer",
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
        # experts are found by structure; a shared one is what all tokens go through beside them
        feed_forwards=tuple(
            FeedForwardPaths(up=f"{block}.up_proj", gate=f"{block}.gate_proj", down=f"{block}.down_proj")
            for block in ("mlp", "mlp.shared_expert")
        ),
    )
)  # fmt: skip
