"""The vision transformer and those built like it: DeiT, DINOv2 and v3, BEiT, Swin, YOLOS."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, Fixed, register


def _before_5(block: str) -> AttentionPaths:
    """Return the paths that transformers had before its version 5: BERT's names in a block within the block."""
    names = (f"{block}.query", f"{block}.key", f"{block}.value", "output.dense", f"{block}.attention_head_size")
    return AttentionPaths.at("attention", *names)


register(
    Architecture(
        name="vit",
        layers=(
            "ViTLayer", "DeiTLayer", "ViTMAELayer", "ViTMSNLayer", "IJepaLayer", "Dinov2Layer",
            "Dinov2WithRegistersLayer", "DINOv3ViTLayer", "BeitLayer", "Data2VecVisionLayer", "SwinLayer",
            "YolosLayer", "DPTViTLayer", "ViltLayer",
        ),
        attentions=(
            AttentionPaths.at("attention", "q_proj", "k_proj", "v_proj", "o_proj", "head_dim"),
            _before_5("attention"),
            _before_5("self"),  # Swin
        ),
        feed_forwards=(
            FeedForwardPaths(up="mlp.fc1", down="mlp.fc2"),
            FeedForwardPaths(up="mlp.up_proj", gate="mlp.gate_proj", down="mlp.down_proj"),
            FeedForwardPaths(fused="mlp.weights_in", down="mlp.weights_out"),
            FeedForwardPaths(up="intermediate.dense", down="output.dense"),
        ),
        embeddings=(
            "ViTEmbeddings", "DeiTEmbeddings", "ViTMAEEmbeddings", "ViTMSNEmbeddings", "IJepaEmbeddings",
            "Dinov2Embeddings", "Dinov2WithRegistersEmbeddings", "DINOv3ViTEmbeddings", "BeitEmbeddings",
            "Data2VecVisionEmbeddings", "SwinEmbeddings", "YolosEmbeddings", "DPTViTEmbeddings", "ViltEmbeddings",
        ),
        depths=(("decoder_layers", ("decoder_num_hidden_layers",)),),  # of a masked autoencoder
        fixed=(Fixed("is shifted by its place (shift_size), as are those after it", "shift_size"),),
    )
)  # fmt: skip
