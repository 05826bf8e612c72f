"""The vision transformer and those built like it: DeiT, DINOv2 and v3, BEiT, Swin, YOLOS."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, Fixed, register

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
            # where transformers still has BERT's names: all of these before its version 5
            AttentionPaths.at(
                "attention", "attention.query", "attention.key", "attention.value", "output.dense",
                "attention.attention_head_size",
            ),
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
