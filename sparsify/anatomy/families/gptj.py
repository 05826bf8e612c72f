"""GPT-J."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="gptj",
        layers=("GPTJBlock",),
        attentions=(AttentionPaths.at("attn", "q_proj", "k_proj", "v_proj", "out_proj", "head_dim", least=1),),
        feed_forwards=(FeedForwardPaths(up="mlp.fc_in", down="mlp.fc_out"),),
    )
)
