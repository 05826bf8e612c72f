"""StarCoder 2: grouped queries, no gate."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="starcoder2",
        layers=("Starcoder2DecoderLayer",),
        attentions=(AttentionPaths.at("self_attn", "q_proj", "k_proj", "v_proj", "o_proj", "head_dim", least=1),),
        feed_forwards=(FeedForwardPaths(up="mlp.c_fc", down="mlp.c_proj"),),
    )
)
