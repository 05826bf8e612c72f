"""GPT-Neo: attention over all tokens and over near ones, in turn."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="gpt-neo",
        layers=("GPTNeoBlock",),
        attentions=(
            AttentionPaths.at("attn.attention", "q_proj", "k_proj", "v_proj", "out_proj", "head_dim", least=1),
        ),
        feed_forwards=(FeedForwardPaths(up="mlp.c_fc", down="mlp.c_proj"),),
    )
)
