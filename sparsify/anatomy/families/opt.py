"""OPT, XGLM and BioGPT: decoders with the blocks of BART."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="opt",
        layers=("OPTDecoderLayer", "XGLMDecoderLayer", "BioGptDecoderLayer"),
        attentions=(AttentionPaths.at("self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "head_dim", least=1),),
        feed_forwards=(FeedForwardPaths(up="fc1", down="fc2"),),
    )
)
