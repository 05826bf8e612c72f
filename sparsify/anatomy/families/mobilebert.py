"""MobileBERT: bottlenecks, and several feed-forward blocks in a layer."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="mobilebert",
        layers=("MobileBertLayer",),
        attentions=(
            AttentionPaths(
                query="attention.self.query",
                key="attention.self.key",
                value="attention.self.value",
                output="attention.output.dense",
                head_size="attention.self.attention_head_size",
            ),
        ),
        feed_forwards=(
            FeedForwardPaths(up="ffn.*.intermediate.dense", down="ffn.*.output.dense"),
            FeedForwardPaths(up="intermediate.dense", down="output.dense"),
        ),
        embeddings=("MobileBertEmbeddings",),
    )
)
