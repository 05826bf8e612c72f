"""BART and those built like it, with an encoder and a decoder: mBART, Marian, M2M100 and NLLB, Pegasus, Whisper."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

KINDS = ("Bart", "MBart", "Marian", "M2M100", "Pegasus", "Blenderbot", "BlenderbotSmall", "PLBart", "Whisper")
DECODERS = tuple(f"{kind}DecoderLayer" for kind in KINDS)


def _attention(block: str, least: int = 0) -> AttentionPaths:
    return AttentionPaths.at(
        block, "q_proj", "k_proj", "v_proj", "out_proj", "head_dim", least=least, least_in=DECODERS
    )


register(
    Architecture(
        name="bart",
        layers=(*DECODERS, *(f"{kind}EncoderLayer" for kind in KINDS)),
        # cached generation goes wrong without a head in the decoder's self-attention
        attentions=(_attention("self_attn", least=1), _attention("encoder_attn")),
        feed_forwards=(FeedForwardPaths(up="fc1", down="fc2"),),
        depths=(("encoder", ("encoder_layers", "num_hidden_layers")), ("decoder", ("decoder_layers",))),
    )
)
