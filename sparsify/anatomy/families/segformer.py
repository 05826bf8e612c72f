"""SegFormer: attention over a reduced sequence, in stages."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="segformer",
        layers=("SegformerLayer",),
        attentions=(AttentionPaths.at("attention", "q_proj", "k_proj", "v_proj", "o_proj", "head_dim"),),
        feed_forwards=(FeedForwardPaths(up="mlp.fc1", down="mlp.fc2"),),
        others=(("conv", "*"),),
        stacked=False,
        depths=(("segformer", ("depths",)),),
    )
)
