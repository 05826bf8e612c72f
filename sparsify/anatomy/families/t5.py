"""T5 and mT5: the layers of a stack share a table of position biases, and so their heads."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, Fixed, register


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
    return (
        FeedForwardPaths(up=f"{at}.wi", down=f"{at}.wo"),
        FeedForwardPaths(up=f"{at}.wi_1", down=f"{at}.wo", gate=f"{at}.wi_0"),
    )


register(
    Architecture(
        name="t5",
        layers=("T5Block", "MT5Block"),
        attentions=(_attention("layer.0.SelfAttention"), _attention("layer.1.EncDecAttention")),
        feed_forwards=(*_feed_forward(1), *_feed_forward(2)),
        depths=(("encoder", ("num_layers",)), ("decoder", ("num_decoder_layers",))),
        fixed=(
            Fixed(
                "owns the table of position biases that all layers of its stack use",
                "layer.0.SelfAttention.has_relative_attention_bias",
            ),
        ),
    )
)
