"""MPT: query, key and value are one matrix."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="mpt",
        layers=("MptBlock",),
        attentions=(AttentionPaths(fused="attn.Wqkv", output="attn.out_proj", head_size="attn.head_dim", least=1),),
        feed_forwards=(FeedForwardPaths(up="ffn.up_proj", down="ffn.down_proj"),),
    )
)
