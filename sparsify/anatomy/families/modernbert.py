"""ModernBERT: query, key and value are one matrix; gate and up are another."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, Fixed, register

register(
    Architecture(
        name="modernbert",
        layers=("ModernBertEncoderLayer",),
        attentions=(AttentionPaths(fused="attn.Wqkv", output="attn.Wo", head_size="attn.head_dim"),),
        feed_forwards=(FeedForwardPaths(fused="mlp.Wi", down="mlp.Wo"),),
        embeddings=("ModernBertEmbeddings",),
        fixed=(Fixed("has no norm before its attention, which every other layer has", place=0),),
    )
)
