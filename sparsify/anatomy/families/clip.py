"""CLIP and SigLIP: the towers for images and for texts, also in LLaVA and PaliGemma."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="clip",
        layers=("CLIPEncoderLayer", "SiglipEncoderLayer", "Siglip2EncoderLayer"),
        attentions=(AttentionPaths.at("self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "head_dim"),),
        feed_forwards=(FeedForwardPaths(up="mlp.fc1", down="mlp.fc2"),),
        embeddings=("CLIPVisionEmbeddings", "SiglipVisionEmbeddings", "Siglip2VisionEmbeddings"),
    )
)
