"""Phi: no gate, no groups."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="phi",
        layers=("PhiDecoderLayer",),
        attentions=(AttentionPaths.at("self_attn", "q_proj", "k_proj", "v_proj", "dense", "head_dim", least=1),),
        feed_forwards=(FeedForwardPaths(up="mlp.fc1", down="mlp.fc2"),),
    )
)
