"""DistilBERT."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="distilbert",
        layers=("TransformerBlock",),
        attentions=(AttentionPaths.at("attention", "q_lin", "k_lin", "v_lin", "out_lin", "attention_head_size"),),
        feed_forwards=(FeedForwardPaths(up="ffn.lin1", down="ffn.lin2"),),
    )
)
