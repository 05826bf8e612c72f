"""DistilBERT."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="distilbert",
        layers=("TransformerBlock",),
        attentions=(
            AttentionPaths(
                query="attention.q_lin",
                key="attention.k_lin",
                value="attention.v_lin",
                output="attention.out_lin",
                head_size="attention.attention_head_size",
            ),
        ),
        feed_forwards=(FeedForwardPaths(up="ffn.lin1", down="ffn.lin2"),),
    )
)
