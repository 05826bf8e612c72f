"""GPT-2: query, key and value are one matrix, stored transposed; in cross-attention key and value are one."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, Fixed, register


def _attention(block: str, query: str = "") -> AttentionPaths:
    return AttentionPaths(
        query=query, fused=f"{block}.c_attn", output=f"{block}.c_proj", head_size=f"{block}.head_dim", least=1
    )


register(
    Architecture(
        name="gpt2",
        layers=("GPT2Block", "DecisionTransformerGPT2Block"),
        # a block without heads cannot be reshaped: its split size would be 0
        attentions=(_attention("attn"), _attention("crossattention", query="crossattention.q_attn")),
        feed_forwards=(FeedForwardPaths(up="mlp.c_fc", down="mlp.c_proj"),),
        fixed=(
            Fixed(
                "divides its attention by its number (scale_attn_by_inverse_layer_idx), as do those after it, whose "
                "numbers would change",
                "attn.scale_attn_by_inverse_layer_idx",
            ),
        ),
    )
)
