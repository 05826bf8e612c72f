"""T5 and mT5: the layers of a stack share a table of position biases, and so their heads."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register


def _attention(block: str) -> AttentionPaths:
    return AttentionPaths(
        query=f"{block}.q",
        key=f"{block}.k",
        value=f"{block}.v",
        output=f"{block}.o",
        head_size=f"{block}.key_value_proj_dim",
        least=1,
        shared=True,
    )


def _feed_forward(place: int) -> tuple[FeedForwardPaths, FeedForwardPaths]:
    at = f"layer.{place}.DenseReluDense"
    return FeedForwardPaths(f"{at}.wi", f"{at}.wo"), FeedForwardPaths(f"{at}.wi_1", f"{at}.wo", gate=f"{at}.wi_0")


register(
    Architecture(
        name="t5",
        layers=("T5Block", "MT5Block"),
        attentions=(_attention("layer.0.SelfAttention"), _attention("layer.1.EncDecAttention")),
        feed_forwards=(*_feed_forward(1), *_feed_forward(2)),
    )
)
