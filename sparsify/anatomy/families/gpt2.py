"""GPT-2: query, key and value are one matrix, stored transposed."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, Fixed, register

register(
    Architecture(
        name="gpt2",
        layers=("GPT2Block", "DecisionTransformerGPT2Block"),
        # a block without heads cannot be reshaped: its split size would be 0
        attentions=(AttentionPaths(fused="attn.c_attn", output="attn.c_proj", head_size="attn.head_dim", least=1),),
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
