"""GPT-NeoX, BLOOM and Persimmon: the rows of query, key and value of each head lie together."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register


def _attention(block: str, size: str) -> AttentionPaths:
    return AttentionPaths(
        fused=f"{block}.query_key_value",
        output=f"{block}.dense",
        head_size=f"{block}.{size}",
        packing="heads",
        least=1,
    )


register(
    Architecture(
        name="gpt-neox",
        layers=("GPTNeoXLayer", "BloomBlock", "PersimmonDecoderLayer"),
        attentions=(
            _attention("attention", "head_size"),
            _attention("self_attention", "head_dim"),
            _attention("self_attn", "head_dim"),
        ),
        feed_forwards=(FeedForwardPaths(up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h"),),
    )
)
