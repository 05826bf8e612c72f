"""The layers of torch.nn.Transformer: query, key and value are one matrix."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="torch_transformer",
        layers=("TransformerEncoderLayer", "TransformerDecoderLayer"),
        attentions=tuple(
            AttentionPaths(fused=block, output=f"{block}.out_proj", head_size=f"{block}.head_dim", least=1)
            for block in ("self_attn", "multihead_attn")
        ),
        feed_forwards=(FeedForwardPaths(up="linear1", down="linear2"),),
    )
)
