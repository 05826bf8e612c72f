"""Phi-3, Phi-4 and GLM-4: gate and up are one matrix; in Phi, query, key and value too."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="phi3",
        layers=("Phi3DecoderLayer", "GlmDecoderLayer", "Glm4DecoderLayer"),
        attentions=(
            AttentionPaths(
                fused="self_attn.qkv_proj", output="self_attn.o_proj", head_size="self_attn.head_dim", least=1
            ),
            AttentionPaths.at("self_attn", "q_proj", "k_proj", "v_proj", "o_proj", "head_dim", least=1),
        ),
        feed_forwards=(FeedForwardPaths(fused="mlp.gate_up_proj", down="mlp.down_proj"),),
    )
)
