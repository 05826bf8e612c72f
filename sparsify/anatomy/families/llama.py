"""Llama and those built like it: grouped queries, gated feed-forward, or experts in its place."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="llama",
        layers=(
            "LlamaDecoderLayer", "MistralDecoderLayer", "MinistralDecoderLayer",
            "Qwen2DecoderLayer", "Qwen3DecoderLayer", "Qwen2VLDecoderLayer", "Qwen2_5_VLDecoderLayer",
            "Qwen3VLTextDecoderLayer", "GemmaDecoderLayer", "Gemma2DecoderLayer", "Gemma3DecoderLayer",
            "GraniteDecoderLayer", "OlmoDecoderLayer", "CohereDecoderLayer", "Cohere2DecoderLayer",
            "StableLmDecoderLayer", "SmolLM3DecoderLayer", "HeliumDecoderLayer", "Exaone4DecoderLayer",
            "SeedOssDecoderLayer", "Ernie4_5DecoderLayer", "HunYuanDenseV1DecoderLayer", "ArceeDecoderLayer",
            "NemotronDecoderLayer", "MixtralDecoderLayer", "Qwen2MoeDecoderLayer", "Qwen3MoeDecoderLayer",
            "GptOssDecoderLayer", "GraniteMoeDecoderLayer", "Glm4MoeDecoderLayer",
        ),
        # with no group left in the first layer the cache would not know its length
        attentions=(AttentionPaths.at("self_attn", "q_proj", "k_proj", "v_proj", "o_proj", "head_dim", least=1),),
        # Nemotron and Arcee have no gate; experts are found by structure, a shared one is what all tokens go through
        feed_forwards=tuple(
            FeedForwardPaths(up=f"{block}.up_proj", gate=f"{block}.gate_proj", down=f"{block}.down_proj")
            for block in ("mlp", "mlp.shared_expert", "mlp.shared_experts")
        ),
    )
)  # fmt: skip
