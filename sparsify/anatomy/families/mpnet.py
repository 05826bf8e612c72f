"""MPNet."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="mpnet",
        layers=("MPNetLayer",),
        attentions=(AttentionPaths.at("attention.attn", "q", "k", "v", "o", "attention_head_size"),),
        feed_forwards=(FeedForwardPaths(up="intermediate.dense", down="output.dense"),),
        embeddings=("MPNetEmbeddings",),
    )
)
