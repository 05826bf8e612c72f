"""The vision transformer: ViT and DeiT."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="vit",
        layers=("ViTLayer", "DeiTLayer"),
        attentions=(
            AttentionPaths(
                query="attention.q_proj",
                key="attention.k_proj",
                value="attention.v_proj",
                output="attention.o_proj",
                head_size="attention.head_dim",
            ),
        ),
        feed_forwards=(FeedForwardPaths(up="mlp.fc1", down="mlp.fc2"),),
        embeddings=("ViTEmbeddings", "DeiTEmbeddings"),
    )
)
