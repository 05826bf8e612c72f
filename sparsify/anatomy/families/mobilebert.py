"""MobileBERT: bottlenecks, and several feed-forward blocks in a layer."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="mobilebert",
        layers=("MobileBertLayer",),
        attentions=(
            AttentionPaths.at(
                "attention", "self.query", "self.key", "self.value", "output.dense", "self.attention_head_size"
            ),
        ),
        feed_forwards=(
            FeedForwardPaths(up="ffn.*.intermediate.dense", down="ffn.*.output.dense"),
            FeedForwardPaths(up="intermediate.dense", down="output.dense"),
        ),
        embeddings=("MobileBertEmbeddings",),
    )
)
