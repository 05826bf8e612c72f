"""ALBERT: the weights of one layer, used again and again."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="albert",
        layers=("AlbertLayer",),
        attentions=(AttentionPaths.at("attention", "query", "key", "value", "dense", "attention_head_size"),),
        feed_forwards=(FeedForwardPaths(up="ffn", down="ffn_output"),),
        embeddings=("AlbertEmbeddings", "embedding_hidden_mapping_in"),
        shared="stands for all layers of its group, which share its weights; lower num_hidden_layers instead",
    )
)
