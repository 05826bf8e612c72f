"""DeBERTa v1 to v3: relative positions, whose table all layers share."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="deberta",
        layers=("DebertaV2Layer", "DebertaLayer"),
        attentions=(
            AttentionPaths.at(
                "attention",
                "self.query_proj",
                "self.key_proj",
                "self.value_proj",
                "output.dense",
                "self.attention_head_size",
            ),
            AttentionPaths(
                fused="attention.self.in_proj",
                output="attention.output.dense",
                head_size="attention.self.attention_head_size",
                packing="heads",
            ),
        ),
        feed_forwards=(FeedForwardPaths(up="intermediate.dense", down="output.dense"),),
        embeddings=("DebertaV2Embeddings", "DebertaEmbeddings"),
    )
)
