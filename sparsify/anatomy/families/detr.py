"""DETR's encoder and decoder of boxes."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register


def _attention(block: str) -> AttentionPaths:
    return AttentionPaths.at(block, "q_proj", "k_proj", "v_proj", "o_proj", "head_dim")


register(
    Architecture(
        name="detr",
        layers=("DetrEncoderLayer", "DetrDecoderLayer"),
        attentions=(_attention("self_attn"), _attention("encoder_attn")),
        feed_forwards=(FeedForwardPaths(up="mlp.fc1", down="mlp.fc2"), FeedForwardPaths(up="fc1", down="fc2")),
        depths=(("encoder", ("encoder_layers", "num_hidden_layers")), ("decoder", ("decoder_layers",))),
    )
)
