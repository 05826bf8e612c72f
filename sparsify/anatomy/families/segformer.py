"""SegFormer: attention over a reduced sequence, in stages."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="segformer",
        layers=("SegformerLayer",),
        attentions=(
            AttentionPaths.at("attention", "q_proj", "k_proj", "v_proj", "o_proj", "head_dim"),
            AttentionPaths.at(  # before transformers 5
                "attention", "self.query", "self.key", "self.value", "output.dense", "self.attention_head_size"
            ),
        ),
        feed_forwards=(
            FeedForwardPaths(up="mlp.fc1", down="mlp.fc2"),
            FeedForwardPaths(up="mlp.dense1", down="mlp.dense2"),
        ),
        others=(("conv", "*"),),
        stacked=False,
        depths=(("segformer", ("depths",)),),
    )
)
