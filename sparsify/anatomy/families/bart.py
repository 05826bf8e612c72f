"""BART and mBART: an encoder and a decoder."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register


def _attention(block: str, least: int = 0) -> AttentionPaths:
    return AttentionPaths(
        query=f"{block}.q_proj",
        key=f"{block}.k_proj",
        value=f"{block}.v_proj",
        output=f"{block}.out_proj",
        head_size=f"{block}.head_dim",
        least=least,
        least_in=("BartDecoderLayer", "MBartDecoderLayer"),
    )


register(
    Architecture(
        name="bart",
        layers=("BartEncoderLayer", "BartDecoderLayer", "MBartEncoderLayer", "MBartDecoderLayer"),
        # cached generation goes wrong without a head in the decoder's self-attention
        attentions=(_attention("self_attn", least=1), _attention("encoder_attn")),
        feed_forwards=(FeedForwardPaths(up="fc1", down="fc2"),),
        depths=(("encoder", ("encoder_layers", "num_hidden_layers")), ("decoder", ("decoder_layers",))),
    )
)
