"""ConvNeXt: two linear layers in each block, as in a feed-forward block."""

from sparsify.anatomy.architecture import Architecture, FeedForwardPaths, register

register(
    Architecture(
        name="convnext",
        layers=("ConvNextLayer",),
        feed_forwards=(FeedForwardPaths(up="pwconv1", down="pwconv2"),),
        others=(("conv", "*"),),
        embeddings=("ConvNextEmbeddings",),
        stacked=False,
        depths=(("convnext", ("depths",)),),
    )
)
