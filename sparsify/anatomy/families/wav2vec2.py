"""wav2vec 2.0 and those built like it: HuBERT, WavLM, UniSpeech, SEW."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

KINDS = ("Wav2Vec2", "Hubert", "WavLM", "UniSpeech", "UniSpeechSat")
register(
    Architecture(
        name="wav2vec2",
        layers=(
            "SEWEncoderLayer",
            *(f"{kind}EncoderLayer{norm}" for kind in KINDS for norm in ("", "StableLayerNorm")),
        ),
        attentions=(AttentionPaths.at("attention", "q_proj", "k_proj", "v_proj", "out_proj", "head_dim"),),
        feed_forwards=(FeedForwardPaths(up="feed_forward.intermediate_dense", down="feed_forward.output_dense"),),
    )
)
