"""T5, mT5 and UDOP: the layers of a stack share a table of position biases, and so their heads; UMT5: they do not."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, Fixed, register


def _attention(block: str, shared: bool) -> AttentionPaths:
    return AttentionPaths.at(block, "q", "k", "v", "o", "key_value_proj_dim", least=1, shared=shared)


def _attentions(shared: bool) -> tuple[AttentionPaths, AttentionPaths]:
    return _attention("layer.0.SelfAttention", shared), _attention("layer.1.EncDecAttention", shared)


def _feed_forward(place: int) -> tuple[FeedForwardPaths, FeedForwardPaths]:
    at = f"layer.{place}.DenseReluDense"
    return (
        FeedForwardPaths(up=f"{at}.wi", down=f"{at}.wo"),
        FeedForwardPaths(up=f"{at}.wi_1", down=f"{at}.wo", gate=f"{at}.wi_0"),
    )


FEED_FORWARDS = (*_feed_forward(1), *_feed_forward(2))
DEPTHS = (("encoder", ("num_layers",)), ("decoder", ("num_decoder_layers",)))

register(
    Architecture(
        name="t5",
        layers=("T5Block", "MT5Block", "UdopBlock"),
        attentions=_attentions(shared=True),
        feed_forwards=FEED_FORWARDS,
        depths=DEPTHS,
        fixed=(
            Fixed(
                "owns the table of position biases that all layers of its stack use",
                "layer.0.SelfAttention.has_relative_attention_bias",
            ),
        ),
    )
)
register(
    Architecture(
        name="umt5",
        layers=("UMT5Block",),
        attentions=_attentions(shared=False),
        feed_forwards=FEED_FORWARDS,
        depths=DEPTHS,
    )
)
