"""Decoders like Llama whose feed-forward blocks are experts: Mixtral, Qwen-MoE, GPT-OSS, Granite-MoE."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="mixtral",
        layers=(
            "MixtralDecoderLayer", "Qwen2MoeDecoderLayer", "Qwen3MoeDecoderLayer", "GptOssDecoderLayer",
            "GraniteMoeDecoderLayer",
        ),
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
        # experts are found by structure; these are what all tokens share, and layers without experts
        feed_forwards=tuple(
            FeedForwardPaths(up=f"{block}.up_proj", gate=f"{block}.gate_proj", down=f"{block}.down_proj")
            for block in ("mlp", "mlp.shared_expert")
        ),
    )
)  # fmt: skip
