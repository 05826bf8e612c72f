"""DETR's encoder and decoder of boxes."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

OUTPUTS = ("o_proj", "out_proj")  # the second before transformers 5


def _attentions(block: str) -> tuple[AttentionPaths, ...]:
    return tuple(AttentionPaths.at(block, "q_proj", "k_proj", "v_proj", output, "head_dim") for output in OUTPUTS)


register(
    Architecture(
        name="detr",
        layers=("DetrEncoderLayer", "DetrDecoderLayer"),
        attentions=(*_attentions("self_attn"), *_attentions("encoder_attn")),
        feed_forwards=(FeedForwardPaths(up="mlp.fc1", down="mlp.fc2"), FeedForwardPaths(up="fc1", down="fc2")),
        depths=(("encoder", ("encoder_layers", "num_hidden_layers")), ("decoder", ("decoder_layers",))),
    )
)
